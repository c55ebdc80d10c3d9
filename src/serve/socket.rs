//! Where clients come in: socket files, ports, and what systemd hands over.
//!
//! Owns paths: which to take, from whom, whose file it is, and that it is there while the server
//! runs. A file is ours while the path leads to the inode that we bound.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::host::socket::{Address, Listener, Locked, Presence, presence};

/// How long the kernel may take to close the socket of a server that was killed, …
const LEAVING: Duration = Duration::from_secs(2);

/// … and how often it is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What a socket may be opened as.
#[derive(Clone, Debug)]
pub enum Place {
    File(SocketFile),
    Port(SocketAddr),
}

/// A socket in the file system.
#[derive(Clone, Debug)]
pub struct SocketFile {
    pub path: PathBuf,
    /// Who may connect, as the file's mode says it.
    pub mode: u32,
    pub owner: Option<Owner>,
}

/// Numbers of a user and of a group; what is not given stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user: Option<u32>,
    pub group: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "another server listens at {}; stop it first, or give this one a --socket of its own",
        path.display()
    )]
    Live { path: PathBuf },

    #[error(
        "{} is there and is no socket; it is left alone, so give another path with --socket",
        path.display()
    )]
    NoSocket { path: PathBuf },

    #[error("the folder of {} is not there; make it, or give another path with --socket", path.display())]
    NoFolder { path: PathBuf },

    #[error("another server is being started in the folder of {}; try again", path.display())]
    Busy { path: PathBuf },

    #[error("cannot listen at {place}: {reason}{remedy}")]
    Refused { place: String, reason: io::Error, remedy: &'static str },

    #[error("cannot give {} its mode or owner: {reason}", path.display())]
    Mode { path: PathBuf, reason: io::Error },

    #[error(
        "there is no place for a socket: XDG_RUNTIME_DIR names no folder to write in, and \
         /run/penstock cannot be made ({reason}); give a path with --socket"
    )]
    NoPlace { reason: io::Error },

    #[error("a socket that was handed over in LISTEN_FDS cannot be used: {reason}")]
    Inherited { reason: io::Error },

    #[error("at {place} nobody knows who connects, so that none can be let in by user or group")]
    Anonymous { place: String },

    #[error("{file} knows no {what} {name}; give its number")]
    Nobody { file: &'static str, what: &'static str, name: String },
}

/// A socket file that was bound, and which file that is.
#[derive(Debug)]
pub struct Bound {
    file: SocketFile,
    inode: Option<(u64, u64)>,
}

/// What became of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Ours,
    Gone,
    /// Somebody put another file there.
    Taken,
}

/// The folder of a user who has none of their own.
const SHARED: &str = "/run/penstock";

/// Where a server is without --socket, for it and for those who look for it:
/// `$XDG_RUNTIME_DIR/penstock.sock`, else `/run/penstock/penstock.sock`.
pub fn usual_path() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = own.filter(|own| own.is_absolute() && own.is_dir());
    own.unwrap_or(SHARED.into()).join("penstock.sock")
}

/// The same for a server that will listen there: the shared folder is made.
pub fn usual_place() -> Result<PathBuf, SocketError> {
    let path = usual_path();
    if path.parent() == Some(Path::new(SHARED)) {
        match fs::create_dir(SHARED) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(reason) => return Err(SocketError::NoPlace { reason }),
        }
    }
    Ok(path)
}

impl Owner {
    /// `USER`, `USER:GROUP` or `:GROUP`, each a number or a name that the host's own files know.
    pub fn parse(text: &str) -> Result<Owner, SocketError> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let known = |name: &str, file, what| match name {
            "" => Ok(None),
            name => number(name, file, what).map(Some),
        };
        Ok(Owner {
            user: known(user, "/etc/passwd", "user")?,
            group: known(group, "/etc/group", "group")?,
        })
    }
}

/// The number of a user or a group. The files are read here, since a static program cannot ask
/// the host's other directories.
pub fn number(name: &str, file: &'static str, what: &'static str) -> Result<u32, SocketError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let known = fs::read_to_string(file).unwrap_or_default();
    let found = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| SocketError::Nobody { file, what, name: name.into() })
}

impl SocketFile {
    /// Whether it could be bound now, before a model is opened for it.
    pub fn check(&self) -> Result<(), SocketError> {
        self.is_stale().map(|_| ())
    }

    /// Whether a file of a server that is gone is in the way. Fails where anything else is.
    fn is_stale(&self) -> Result<bool, SocketError> {
        let path = self.path.clone();
        if !self.folder().is_dir() {
            return Err(SocketError::NoFolder { path });
        }
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(reason) => return Err(self.refused(reason)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NoSocket { path });
            }
            Ok(_) => {}
        }
        let began = Instant::now();
        loop {
            match presence(&path).map_err(|reason| self.refused(reason))? {
                Presence::Leaving if began.elapsed() < LEAVING => sleep(LOOK),
                // Left to a child that still serves, if it does not go.
                Presence::Listening | Presence::Leaving => return Err(SocketError::Live { path }),
                Presence::Stale => return Ok(true),
                Presence::Absent => return Ok(false),
            }
        }
    }

    /// Binds the path, in place of a file that a server has left there. Nobody connects before
    /// mode and owner are as asked.
    pub fn bind(&self) -> Result<(Listener, Bound), SocketError> {
        // Two servers that find the same stale file must not both take it.
        let _locked = match Locked::folder(self.folder()) {
            Ok(locked) => Some(locked),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(SocketError::Busy { path: self.path.clone() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(reason) => return Err(self.refused(reason)),
        };
        if self.is_stale()? {
            fs::remove_file(&self.path).map_err(|reason| self.refused(reason))?;
        }
        let listener = Listener::unix(&self.path).map_err(|reason| self.refused(reason))?;
        let inode = fs::symlink_metadata(&self.path).ok().map(|found| inode(&found));
        let bound = Bound { file: self.clone(), inode };
        self.dress().map_err(|reason| SocketError::Mode { path: self.path.clone(), reason })?;
        Ok((listener, bound))
    }

    fn dress(&self) -> io::Result<()> {
        if let Some(Owner { user, group }) = self.owner {
            lchown(&self.path, user, group)?;
        }
        fs::set_permissions(&self.path, Permissions::from_mode(self.mode))
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    fn refused(&self, reason: io::Error) -> SocketError {
        let remedy = match reason.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => {
                "; this user may not use that folder or what lies there, so give another path with \
                 --socket"
            }
            Some(libc::EADDRINUSE) => "; somebody has just put another file there, so try again",
            Some(libc::EROFS | libc::ENOSPC) => {
                "; give a path in a folder that can be written to with --socket"
            }
            _ if reason.kind() == io::ErrorKind::InvalidInput => {
                "; give a shorter one with --socket"
            }
            _ => "",
        };
        SocketError::Refused { place: self.path.display().to_string(), reason, remedy }
    }
}

impl Bound {
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub fn fate(&self) -> Fate {
        match fs::symlink_metadata(&self.file.path) {
            Ok(found) if Some(inode(&found)) == self.inode => Fate::Ours,
            Ok(_) => Fate::Taken,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Fate::Gone,
            // A folder that cannot be looked into now may be later.
            Err(_) => Fate::Ours,
        }
    }

    /// Binds the path anew.
    pub fn again(&self) -> Result<(Listener, Bound), SocketError> {
        self.file.bind()
    }
}

/// The file goes with the server, if it is still its own.
impl Drop for Bound {
    fn drop(&mut self) {
        if self.inode.is_some() && self.fate() == Fate::Ours {
            let _ = fs::remove_file(&self.file.path);
        }
    }
}

/// Why a port cannot be had, and what helps.
fn unopened(address: SocketAddr, reason: io::Error) -> SocketError {
    let remedy = match reason.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => {
            "; this host has no such address, so give one that `ip address` shows, or 0.0.0.0 for \
             all it has"
        }
        Some(libc::EADDRINUSE) => {
            "; another program listens there, so stop it or give another port"
        }
        Some(libc::EACCES | libc::EPERM) if address.port() < 1024 => {
            "; ports below 1024 are for programs with the capability CAP_NET_BIND_SERVICE, so give \
             a higher one"
        }
        Some(libc::EAFNOSUPPORT) => "; this host has no addresses of this kind, so give another",
        _ => "",
    };
    SocketError::Refused { place: address.to_string(), reason, remedy }
}

fn inode(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// A socket that is open, and what it is called.
pub struct Socket {
    pub listener: Listener,
    pub name: String,
    /// Whether the kernel says who connects.
    pub local: bool,
    pub bound: Option<Bound>,
}

impl Socket {
    pub fn open(place: &Place) -> Result<Socket, SocketError> {
        match place {
            Place::File(file) => {
                let (listener, bound) = file.bind()?;
                let name = file.path.display().to_string();
                Ok(Socket { listener, name, local: true, bound: Some(bound) })
            }
            Place::Port(address) => {
                let listened = Listener::tcp(*address);
                let refused = |reason| unopened(*address, reason);
                Socket::named(listened.map_err(refused)?).map_err(refused)
            }
        }
    }

    /// Sockets that systemd opened. Their files are its own.
    pub fn inherited() -> Result<Vec<Socket>, SocketError> {
        let refused = |reason| SocketError::Inherited { reason };
        let listeners = Listener::inherited().map_err(refused)?;
        listeners.into_iter().map(|one| Socket::named(one).map_err(refused)).collect()
    }

    fn named(listener: Listener) -> io::Result<Socket> {
        let (name, local) = match listener.address()? {
            Address::Unix(path) => (path.display().to_string(), true),
            Address::Tcp(address) => (format!("http://{address}"), false),
        };
        Ok(Socket { listener, name, local, bound: None })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn file(path: PathBuf) -> SocketFile {
        SocketFile { path, mode: 0o660, owner: None }
    }

    #[test]
    fn a_stale_file_is_taken_over_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, bound) = file(path.clone()).bind().unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o660);
        let refused = file(path.clone()).bind().unwrap_err();
        assert!(matches!(refused, SocketError::Live { .. }), "{refused}");
        assert!(refused.to_string().contains(path.to_str().unwrap()));
        drop((listener, bound));
        assert!(!path.exists(), "the file stays behind");

        fs::write(&path, "precious").unwrap();
        let refused = file(path.clone()).bind().unwrap_err();
        assert!(matches!(refused, SocketError::NoSocket { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let refused = file(folder.path().join("no/where")).bind().unwrap_err();
        assert!(matches!(refused, SocketError::NoFolder { .. }), "{refused}");
    }

    #[test]
    fn a_file_that_is_not_ours_any_more_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, bound) = file(path.clone()).bind().unwrap();
        assert_eq!(bound.fate(), Fate::Ours);
        fs::remove_file(&path).unwrap();
        assert_eq!(bound.fate(), Fate::Gone);
        let _other = UnixListener::bind(&path).unwrap();
        assert_eq!(bound.fate(), Fate::Taken);
        drop(bound);
        assert!(path.exists(), "another's file was removed");
    }

    #[test]
    fn what_cannot_be_opened_says_what_helps() {
        let open = |address: SocketAddr| match Socket::open(&Place::Port(address)) {
            Ok(_) => panic!("{address} was opened"),
            Err(error) => error.to_string(),
        };
        // Of the addresses that are set aside for examples, no host has one.
        let words = open("192.0.2.1:8080".parse().unwrap());
        assert!(words.contains("cannot listen at 192.0.2.1:8080"), "{words}");
        assert!(words.contains("no such address"), "{words}");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let words = open(taken.local_addr().unwrap());
        assert!(words.contains("another program listens there"), "{words}");
        // Root may use any, so this is asked of what was refused to somebody else.
        let refused = || io::Error::from_raw_os_error(libc::EACCES);
        let words = unopened("127.0.0.1:80".parse().unwrap(), refused()).to_string();
        assert!(words.contains("below 1024"), "{words}");
        let words = file("/somewhere/s".into()).refused(refused()).to_string();
        assert!(words.contains("this user may not") && words.contains("--socket"), "{words}");
        let folder = tempfile::tempdir().unwrap();
        let words = file(folder.path().join("x".repeat(200))).bind().unwrap_err().to_string();
        assert!(words.contains("107 bytes") && words.contains("shorter"), "{words}");
    }

    #[test]
    fn owners_are_names_and_numbers() {
        let all = |user, group| Owner { user, group };
        assert_eq!(Owner::parse("root").unwrap(), all(Some(0), None));
        assert_eq!(Owner::parse("root:root").unwrap(), all(Some(0), Some(0)));
        assert_eq!(Owner::parse("1000:33").unwrap(), all(Some(1000), Some(33)));
        assert_eq!(Owner::parse(":7").unwrap(), all(None, Some(7)));
        assert!(Owner::parse("nobody-has-this-name").unwrap_err().to_string().contains("number"));
    }
}
