//! Sockets as descriptors: made, taken over from a parent, and asked who is at the other end.
//!
//! Paths, permissions to take a path over, and what is said on a connection are `serve`'s.

use std::ffi::OsStr;
use std::io;
use std::mem::{offset_of, size_of, size_of_val, zeroed};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use glommio::net;

/// Connections that wait to be accepted; the kernel has a bound of its own (`somaxconn`). A
/// client that does not block, as nginx, is refused beyond it.
const BACKLOG: i32 = 4096;

/// What the kernel calls the supplementary groups of a peer; not in `libc` for every target.
const SO_PEERGROUPS: i32 = 59;

/// A socket that listens.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Whether somebody answers at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Listening,
    /// The process that listened has ended, and what it left open still takes connections: the
    /// kernel closes a ring's files a moment after the ring's process.
    Leaving,
    /// A socket that its process has left.
    Stale,
    Absent,
}

/// Who is at the other end of a Unix socket: who it was when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    /// Its group and all others it is in.
    pub gids: Vec<u32>,
}

impl Listener {
    /// Binds a path that is free. Nobody but the owner may connect until `mode` is set by path:
    /// the socket never stands open wider than it will.
    pub fn unix(path: &Path) -> io::Result<Listener> {
        let (address, length) = unix_address(path)?;
        let fd = unix_socket(0)?;
        // The kernel takes the mode of the file that bind makes from the socket itself.
        // SAFETY: a descriptor this function owns; no pointers.
        check(unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) })?;
        let pointer = (&raw const address).cast();
        // SAFETY: an address of this length that lives through the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), pointer, length) })?;
        listening(fd)
    }

    pub fn tcp(address: SocketAddr) -> io::Result<Listener> {
        listening(TcpListener::bind(address)?.into())
    }

    /// What a parent, mostly systemd, has opened for this process and says so in `LISTEN_FDS`.
    /// Only the first call gets them.
    pub fn inherited() -> io::Result<Vec<Listener>> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let fds: Vec<RawFd> = sd_notify::listen_fds()?.collect();
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        // SAFETY: the parent handed these over to this process, `listen_fds` found each open, and
        // nobody else takes them: this is the first call.
        let owned = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let owned: Vec<OwnedFd> = owned.collect();
        owned.into_iter().map(Listener::checked).collect()
    }

    fn checked(fd: OwnedFd) -> io::Result<Listener> {
        let listens = option(fd.as_fd(), libc::SO_ACCEPTCONN)? != 0;
        let stream = option(fd.as_fd(), libc::SO_TYPE)? == libc::SOCK_STREAM;
        match listens && stream {
            true => Ok(Listener(fd)),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a stream socket that listens (ListenStream= and Accept=no make one)",
            )),
        }
    }

    pub fn address(&self) -> io::Result<Address> {
        match option(self.0.as_fd(), libc::SO_DOMAIN)? {
            libc::AF_UNIX => {
                let address = UnixListener::from(self.0.try_clone()?).local_addr()?;
                let name = address.as_pathname().unwrap_or(Path::new("@"));
                Ok(Address::Unix(name.to_owned()))
            }
            _ => Ok(Address::Tcp(TcpListener::from(self.0.try_clone()?).local_addr()?)),
        }
    }

    /// The same for this thread's reactor. To be called inside it. glommio's type is that for TCP,
    /// but what it does is `accept`, `send` and `recv`, which are the same for both kinds.
    pub fn on_reactor(self) -> net::TcpListener {
        // SAFETY: ownership of a descriptor goes over.
        unsafe { net::TcpListener::from_raw_fd(self.0.into_raw_fd()) }
    }
}

/// Asks at a path. It neither waits nor leaves more than a connection that is closed at once.
pub fn presence(path: &Path) -> io::Result<Presence> {
    let (address, length) = unix_address(path)?;
    let fd = unix_socket(libc::SOCK_NONBLOCK)?;
    let pointer = (&raw const address).cast();
    // SAFETY: an address of this length that lives through the call.
    let connected = check(unsafe { libc::connect(fd.as_raw_fd(), pointer, length) });
    let Err(error) = connected else {
        return Ok(match listens_no_more(&fd) {
            true => Presence::Leaving,
            false => Presence::Listening,
        });
    };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Ok(Presence::Stale),
        Some(libc::ENOENT) => Ok(Presence::Absent),
        // Its queue is full, or it is a socket of another kind: somebody is there.
        Some(libc::EAGAIN | libc::EPROTOTYPE) => Ok(Presence::Listening),
        _ => Err(error),
    }
}

/// Whether the process that listens at the other end is known to have ended. One of another
/// namespace has no number here, and is not known to.
fn listens_no_more(connected: &impl AsRawFd) -> bool {
    let Ok(who) = credentials(connected.as_raw_fd()) else { return false };
    // SAFETY: no pointers; signal 0 only asks.
    who.pid > 0
        && check(unsafe { libc::kill(who.pid, 0) })
            .is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

fn credentials(fd: RawFd) -> io::Result<libc::ucred> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of_val(&who) as libc::socklen_t;
    let pointer = (&raw mut who).cast();
    // SAFETY: room of the length that is said, and it lives through the call.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, pointer, &mut length)
    })?;
    Ok(who)
}

/// Who has connected to a Unix socket.
pub fn peer(fd: &impl AsRawFd) -> io::Result<Peer> {
    let fd = fd.as_raw_fd();
    let who = credentials(fd)?;
    let mut gids = vec![0u32; 64];
    loop {
        let mut length = size_of_val(&*gids) as libc::socklen_t;
        let pointer = gids.as_mut_ptr().cast();
        // SAFETY: room of the length that is said, and it lives through the call.
        let asked = check(unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, SO_PEERGROUPS, pointer, &mut length)
        });
        let count = length as usize / size_of::<u32>();
        match asked {
            Ok(()) => gids.truncate(count),
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > gids.len() => {
                gids.resize(count, 0);
                continue;
            }
            // A kernel before 4.13 does not say.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => gids.clear(),
            Err(error) => return Err(error),
        }
        break;
    }
    gids.push(who.gid);
    Ok(Peer { uid: who.uid, gids })
}

/// A folder that only one process at a time changes. Given back when it is dropped.
pub struct Locked {
    _folder: std::fs::File,
}

impl Locked {
    /// Does not wait: `WouldBlock` where another has it.
    pub fn folder(path: &Path) -> io::Result<Locked> {
        let folder = std::fs::File::open(path)?;
        folder.try_lock().map_err(io::Error::from)?;
        Ok(Locked { _folder: folder })
    }
}

fn unix_socket(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd =
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
    check(fd.min(0))?;
    // SAFETY: a descriptor that was just made and that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: bytes and a number, for which zeros are values.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    let bytes = OsStr::as_bytes(path.as_os_str());
    // One is for the zero behind it.
    let most = address.sun_path.len() - 1;
    if bytes.len() > most || bytes.is_empty() || bytes.contains(&0) {
        let sentence =
            format!("the path of a socket has 1 to {most} bytes, and no zero among them");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    let length = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, length as libc::socklen_t))
}

fn listening(fd: OwnedFd) -> io::Result<Listener> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    Ok(Listener(fd))
}

fn option(fd: BorrowedFd, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    let pointer = (&raw mut value).cast();
    // SAFETY: room for one number that lives through the call.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, pointer, &mut length)
    })?;
    Ok(value)
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_path_is_absent_then_taken_then_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(presence(&path).unwrap(), Presence::Absent);
        let listener = Listener::unix(&path).unwrap();
        assert_eq!(presence(&path).unwrap(), Presence::Listening);
        assert_eq!(listener.address().unwrap(), Address::Unix(path.clone()));
        let mode = std::fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert_eq!(presence(&path).unwrap(), Presence::Stale);
        assert!(Listener::unix(&path).is_err(), "bound over another's file");
    }

    #[test]
    fn what_a_dead_process_left_listening_is_on_its_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::unix(&path).unwrap();
        let fd = listener.0.as_raw_fd();
        // SAFETY: the child makes system calls only, and returns into nothing.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::listen(fd, 1);
                libc::_exit(0);
            }
            child
        };
        let mut status = 0;
        // SAFETY: a number that lives through the call.
        check(unsafe { libc::waitpid(child, &mut status, 0) }).unwrap();
        assert_eq!(status, 0);
        assert_eq!(presence(&path).unwrap(), Presence::Leaving);
        drop(listener);
        assert_eq!(presence(&path).unwrap(), Presence::Stale);
    }

    #[test]
    fn long_paths_are_refused_in_words() {
        let long = PathBuf::from("/tmp").join("x".repeat(200));
        assert!(presence(&long).unwrap_err().to_string().contains("107"));
        assert!(Listener::unix(Path::new("")).is_err());
    }

    #[test]
    fn a_peer_is_who_it_is() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = peer(&one).unwrap();
        // SAFETY: no pointers, and neither can fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        assert_eq!(peer.uid, uid);
        assert!(peer.gids.contains(&gid));
    }

    #[test]
    fn a_folder_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let locked = Locked::folder(folder.path()).unwrap();
        let refused = Locked::folder(folder.path()).err().map(|e| e.kind());
        assert_eq!(refused, Some(io::ErrorKind::WouldBlock));
        drop(locked);
        Locked::folder(folder.path()).unwrap();
    }
}
