//! A real `PgBouncer` before the shared PostgreSQL.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::wait::until;

/// A running `PgBouncer`. Dropping it kills the process.
pub(crate) struct PgBouncer {
    process: Child,
    port: u16,
    user: String,
    database: String,
    dir: TempDir,
    /// The user and group that run it: it does not run as root.
    owner: (u32, u32),
}

impl PgBouncer {
    /// Starts `PgBouncer` with at most `connections` to `database`. `mode` is `session` or `transaction`.
    pub(crate) async fn start(database: &PgConnectOptions, mode: &str, connections: u32) -> Self {
        let socket = database.get_socket().unwrap();
        let found = fs::metadata(socket).unwrap();
        let owner = (found.uid(), found.gid());
        let dir = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (socket, user) = (socket.display(), database.get_username());
        let config = format!(
            "[databases]
            * = host={socket}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = trust
            auth_file = users.txt
            pool_mode = {mode}
            default_pool_size = {connections}
            "
        );
        for (name, text) in [
            ("pgbouncer.ini", config.replace("            ", "")),
            ("users.txt", format!("\"{user}\" \"\"\n")),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
            chown(dir.path().join(name), Some(owner.0), Some(owner.1)).unwrap();
        }
        let process = run(dir.path(), owner);
        let (user, database) = (user.to_owned(), database.get_database().unwrap().to_owned());
        let bouncer = Self { process, port, user, database, dir, owner };
        bouncer.until_connected().await;
        bouncer
    }

    /// Ends all connections, and accepts new ones.
    pub(crate) async fn restart(&mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        self.process.wait().unwrap();
        self.process = run(self.dir.path(), self.owner);
        self.until_connected().await;
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        self.url().parse::<PgConnectOptions>().unwrap().extra_float_digits(None)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://{}@127.0.0.1:{}/{}?sslmode=disable", self.user, self.port, self.database)
    }

    async fn until_connected(&self) {
        until(async || PgConnection::connect_with(&self.options()).await.is_ok()).await;
    }
}

fn run(dir: &Path, (user, group): (u32, u32)) -> Child {
    // Debian installs it outside of other users' PATH.
    let installed = Path::new("/usr/sbin/pgbouncer");
    let program = if installed.exists() { installed } else { Path::new("pgbouncer") };
    let mut command = Command::new(program);
    command.arg("-q").arg("pgbouncer.ini").current_dir(dir).uid(user).gid(group);
    let log = fs::File::create(dir.join("log")).unwrap();
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap_or_else(|error| {
        panic!("this test needs PgBouncer ({error}): `scripts/install-tools proxies` installs it")
    })
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
