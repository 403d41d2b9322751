//! The user that runs PostgreSQL, and a data directory that this user can reach. PostgreSQL refuses to run as root, so
//! root runs it as an unprivileged user.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::PrivatePostgresError;

/// Longest directory of a socket, in bytes. The system limits the whole path, which ends with `/.s.PGSQL.5432`, to
/// about 100.
const LONGEST_SOCKET_DIR: usize = 80;

/// The parent of root's data directories if the unprivileged user cannot reach the configured one.
const ROOTS_DIR: &str = "/var/lib/workflow-receiver";

/// The user that runs PostgreSQL.
#[derive(Debug)]
pub(crate) struct Owner {
    /// User and group if they differ from those of this process.
    other: Option<(u32, u32)>,
}

impl Owner {
    pub(crate) fn of_this_process() -> Result<Self, PrivatePostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { other: None });
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let other = ["postgres", "nobody"].iter().find_map(|name| ids(&users, name));
        Ok(Self { other: Some(other.ok_or(PrivatePostgresError::NoUser)?) })
    }

    pub(crate) fn run_as(&self, command: &mut Command) {
        if let Some((user, group)) = self.other {
            command.uid(user).gid(group);
        }
    }

    /// Creates `dir`, or another directory if the user cannot reach `dir`, and gives access to this user only. Returns the
    /// real path.
    pub(crate) fn place_for(&self, dir: &Path) -> Result<PathBuf, PrivatePostgresError> {
        fs::create_dir_all(dir).map_err(PrivatePostgresError::at(dir))?;
        let mut place = dir.canonicalize().map_err(PrivatePostgresError::at(dir))?;
        if self.other.is_some() && !reachable(&place) {
            let name = format!("{:08x}", crc32fast::hash(place.as_os_str().as_encoded_bytes()));
            place = Path::new(ROOTS_DIR).join(name);
            fs::create_dir_all(&place).map_err(PrivatePostgresError::at(&place))?;
        }
        // Owner and mode are changed below, so the directory must not contain other files.
        let foreign = |name: &str| {
            !["lock", "data", "data.new", "log"].contains(&name) && !name.starts_with(".s.PGSQL")
        };
        let names = fs::read_dir(&place).map_err(PrivatePostgresError::at(&place))?;
        if names.flatten().any(|entry| foreign(&entry.file_name().to_string_lossy())) {
            return Err(PrivatePostgresError::Foreign(place));
        }
        self.own(&place)?;
        Ok(place)
    }

    /// `dir`, or a shorter path if `dir` is too long for a socket.
    pub(crate) fn socket_dir(&self, dir: &Path) -> Result<PathBuf, PrivatePostgresError> {
        if dir.as_os_str().len() <= LONGEST_SOCKET_DIR {
            return Ok(dir.to_owned());
        }
        let name =
            format!("/tmp/workflow-receiver-{:08x}", crc32fast::hash(dir.as_os_str().as_encoded_bytes()));
        let short = PathBuf::from(name);
        // /tmp is writable by all users: an existing directory must belong to this user.
        if let Err(error) = DirBuilder::new().mode(0o700).create(&short) {
            let us = rustix::process::geteuid().as_raw();
            let ours =
                |m: fs::Metadata| m.is_dir() && (m.uid() == us || Some(m.uid()) == self.other.map(|o| o.0));
            if !fs::symlink_metadata(&short).is_ok_and(ours) {
                return Err(PrivatePostgresError::at(&short)(error));
            }
        }
        self.own(&short)?;
        Ok(short)
    }

    fn own(&self, dir: &Path) -> Result<(), PrivatePostgresError> {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(PrivatePostgresError::at(dir))?;
        match self.other {
            Some((user, group)) => chown(dir, Some(user), Some(group)).map_err(PrivatePostgresError::at(dir)),
            None => Ok(()),
        }
    }
}

/// User and group of `name` in the text of `/etc/passwd`.
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<_> = users.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// Whether every user can traverse all parent directories.
fn reachable(dir: &Path) -> bool {
    dir.ancestors().skip(1).all(|d| fs::metadata(d).is_ok_and(|m| m.mode() & 0o001 != 0))
}
