//! The proxies whose configurations are in `deploy/`.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::process::unused_host;
use super::wait::pause;

/// A proxy with the file of `deploy/`, on an address of its own and without TLS.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Proxy {
    /// Starts `program ARGUMENTS… FILE`. `changes` replaces texts of the file: each must occur in it. In a replacement,
    /// `LISTEN` is the proxy's address, `HOST` its host, and `DIR` a directory.
    pub(crate) async fn start(
        program: &str,
        arguments: &[&str],
        name: &str,
        changes: &[(&str, &str)],
    ) -> Self {
        // nginx runs its workers as another user.
        let dir = TempDir::new().unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let address = SocketAddr::from((unused_host(), 18443));
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
        let mut text = fs::read_to_string(deploy.join(name)).unwrap();
        for (old, new) in changes {
            assert!(text.contains(old), "deploy/{name} does not contain {old:?}");
            let new = new
                .replace("LISTEN", &address.to_string())
                .replace("HOST", &address.ip().to_string())
                .replace("DIR", dir.path().to_str().unwrap());
            text = text.replace(old, &new);
        }
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(find(program));
        command.args(arguments).arg(file).env("HOME", dir.path()).current_dir(dir.path());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut proxy = Self { address, child, dir };
        while TcpStream::connect(address).await.is_err() {
            assert!(proxy.child.try_wait().unwrap().is_none(), "{program} ended");
            pause().await;
        }
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx ends its workers.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the proxy's log:\n{}", lines[lines.len().saturating_sub(50)..].join("\n"));
        }
    }
}

/// A program on the PATH, or where packages install servers.
fn find(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"].map(PathBuf::from));
    let found = dirs.map(|dir| dir.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{program} is missing: run scripts/install-tools proxies, or install it"))
}

/// A DNS server that answers each query for an IPv4 address with `addresses`.
pub(crate) fn dns(addresses: Vec<Ipv4Addr>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            // The question follows a head of 12 bytes: a name up to a zero, a type, a class.
            let Some(name) = query[12..length].iter().position(|byte| *byte == 0) else { continue };
            let question = &query[12..12 + name + 5];
            let records = if question[name + 1..name + 3] == [0, 1] { &addresses[..] } else { &[] };
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
            answer.extend(question);
            for record in records {
                // The name of the question, an IPv4 address, valid for one second.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                answer.extend(record.octets());
            }
            let _ = socket.send_to(&answer, peer);
        }
    });
    address
}
