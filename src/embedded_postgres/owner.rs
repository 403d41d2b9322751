//! Who runs PostgreSQL, and where that user can keep data. PostgreSQL refuses to run as root, so
//! root hands it to an unprivileged user.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{EmbeddedError, LONGEST_SOCKET_DIR};

/// Where root keeps the data when the unprivileged user cannot reach the place asked for.
const ROOTS_PLACE: &str = "/var/lib/workflow-receiver";

/// The user that PostgreSQL runs as.
#[derive(Debug)]
pub(super) struct Owner {
    /// Set when it is not the user of this process.
    other: Option<(u32, u32)>,
}

impl Owner {
    pub(super) fn of_this_process() -> Result<Self, EmbeddedError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { other: None });
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let other = ["postgres", "nobody"].iter().find_map(|name| ids(&users, name));
        Ok(Self { other: Some(other.ok_or(EmbeddedError::NoUser)?) })
    }

    pub(super) fn run_as(&self, command: &mut Command) {
        if let Some((user, group)) = self.other {
            command.uid(user).gid(group);
        }
    }

    /// Makes `dir`, or a place for it that the user can reach, private to the user. The real path.
    pub(super) fn place_for(&self, dir: &Path) -> Result<PathBuf, EmbeddedError> {
        fs::create_dir_all(dir).map_err(EmbeddedError::at(dir))?;
        let mut place = dir.canonicalize().map_err(EmbeddedError::at(dir))?;
        if self.other.is_some() && !reachable(&place) {
            let name = format!("{:08x}", crc32fast::hash(place.as_os_str().as_encoded_bytes()));
            place = Path::new(ROOTS_PLACE).join(name);
            fs::create_dir_all(&place).map_err(EmbeddedError::at(&place))?;
        }
        // Its owner and mode are about to change: it must not be anybody's else.
        let strange = |name: &str| {
            !["lock", "data", "data.making", "log"].contains(&name) && !name.starts_with(".s.PGSQL")
        };
        let names = fs::read_dir(&place).map_err(EmbeddedError::at(&place))?;
        if names.flatten().any(|entry| strange(&entry.file_name().to_string_lossy())) {
            return Err(EmbeddedError::Foreign(place));
        }
        self.own(&place)?;
        Ok(place)
    }

    /// `dir` itself, or a shorter path where its own would be too long for a socket.
    pub(super) fn socket_dir(&self, dir: &Path) -> Result<PathBuf, EmbeddedError> {
        if dir.as_os_str().len() <= LONGEST_SOCKET_DIR {
            return Ok(dir.to_owned());
        }
        let name =
            format!("/tmp/workflow-receiver-{:08x}", crc32fast::hash(dir.as_os_str().as_encoded_bytes()));
        let short = PathBuf::from(name);
        // In a directory for everyone, a name that is there already must be ours.
        if let Err(error) = DirBuilder::new().mode(0o700).create(&short) {
            let us = rustix::process::geteuid().as_raw();
            let ours =
                |m: fs::Metadata| m.is_dir() && (m.uid() == us || Some(m.uid()) == self.other.map(|o| o.0));
            if !fs::symlink_metadata(&short).is_ok_and(ours) {
                return Err(EmbeddedError::at(&short)(error));
            }
        }
        self.own(&short)?;
        Ok(short)
    }

    fn own(&self, dir: &Path) -> Result<(), EmbeddedError> {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(EmbeddedError::at(dir))?;
        match self.other {
            Some((user, group)) => chown(dir, Some(user), Some(group)).map_err(EmbeddedError::at(dir)),
            None => Ok(()),
        }
    }
}

/// User and group of `name` in the text of `/etc/passwd`.
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<_> = users.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// Whether everyone may pass through all directories above.
fn reachable(dir: &Path) -> bool {
    dir.ancestors().skip(1).all(|d| fs::metadata(d).is_ok_and(|m| m.mode() & 0o001 != 0))
}
