//! Who may speak to the server over a Unix socket.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use crate::host::socket::peer;

/// Users and groups whose processes may connect. Empty: everybody whom the socket file lets in.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    pub users: BTreeSet<u32>,
    pub groups: BTreeSet<u32>,
}

impl Allowed {
    pub fn is_everybody(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Whether whoever has connected may speak. One whom the kernel does not name may not.
    pub fn lets_in(&self, connection: &impl AsRawFd) -> bool {
        if self.is_everybody() {
            return true;
        }
        peer(connection).is_ok_and(|peer| {
            self.users.contains(&peer.uid) || peer.gids.iter().any(|gid| self.groups.contains(gid))
        })
    }
}
