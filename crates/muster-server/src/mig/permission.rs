//! Who may call which route: one table with MIG's permissions, and what is not in it is not there.

use http::Method;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: anybody may.
    Nothing,
    /// An investigator with this permission.
    Permission(&'static str),
    /// A loader's key, which nobody has, because there are no loaders.
    Loader,
}

/// The names of permissions with their bits, in the order in which they are shown.
pub(super) const PERMISSIONS: [(&str, u32); 19] = [
    ("search", 1),
    ("action", 2),
    ("action_create", 4),
    ("command", 8),
    ("agent", 16),
    ("dashboard", 32),
    ("loader", 64),
    ("loader_status", 128),
    ("loader_expect", 256),
    ("loader_key", 512),
    ("loader_new", 1024),
    ("manifest", 2048),
    ("manifest_sign", 4096),
    ("manifest_status", 16384),
    ("manifest_new", 8192),
    ("manifest_loaders", 32768),
    ("investigator", 65536),
    ("investigator_create", 131_072),
    ("investigator_update", 262_144),
];

/// Returns the bit of a permission; 0 for a name that is none, which nobody has.
pub(super) fn bit(name: &str) -> u32 {
    PERMISSIONS.iter().find(|(known, _)| *known == name).map_or(0, |(_, bit)| *bit)
}

use Need::{Loader, Nothing, Permission};

/// Every route there is.
pub(super) const TABLE: [(&str, &str, Need); 26] = [
    ("GET", "/", Nothing),
    ("GET", "/heartbeat", Nothing),
    ("POST", "/heartbeat", Nothing),
    ("GET", "/ip", Nothing),
    ("GET", "/publickey/{fingerprint}", Nothing),
    ("GET", "/dashboard", Permission("dashboard")),
    ("GET", "/action", Permission("action")),
    ("POST", "/action/create/", Permission("action_create")),
    ("GET", "/command", Permission("command")),
    ("GET", "/agent", Permission("agent")),
    ("GET", "/search", Permission("search")),
    ("GET", "/investigator", Permission("investigator")),
    ("POST", "/investigator/create/", Permission("investigator_create")),
    ("POST", "/investigator/update/", Permission("investigator_update")),
    ("GET", "/loader", Permission("loader")),
    ("POST", "/loader/new/", Permission("loader_new")),
    ("POST", "/loader/status/", Permission("loader_status")),
    ("POST", "/loader/expect/", Permission("loader_expect")),
    ("POST", "/loader/key/", Permission("loader_key")),
    ("GET", "/manifest", Permission("manifest")),
    ("POST", "/manifest/new/", Permission("manifest_new")),
    ("POST", "/manifest/sign/", Permission("manifest_sign")),
    ("POST", "/manifest/status/", Permission("manifest_status")),
    ("GET", "/manifest/loaders/", Permission("manifest_loaders")),
    ("POST", "/manifest/agent/", Loader),
    ("POST", "/manifest/fetch/", Loader),
];

/// Finds what a route needs; `path` as the router wrote it, without the root. `None`: there is no such route.
pub(super) fn find(method: &Method, path: &str) -> Option<Need> {
    let is_it = |(of, at, _): &&(&str, &str, Need)| *of == method.as_str() && *at == path;
    TABLE.iter().find(is_it).map(|(_, _, need)| *need)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_store::investigators::{PERMISSIONS_ADMIN, PERMISSIONS_ALL};
    use std::collections::BTreeSet;

    #[test]
    fn every_permission_has_a_bit_of_its_own_and_every_route_asks_for_one_that_there_is() {
        let all = PERMISSIONS.iter().fold(0, |all, (_, bit)| all | bit);
        assert_eq!((all, PERMISSIONS.iter().map(|(_, bit)| bit).sum::<u32>()), (PERMISSIONS_ALL, PERMISSIONS_ALL));
        let admin = PERMISSIONS.iter().filter(|(name, _)| name.starts_with("investigator"));
        assert_eq!(admin.map(|(_, bit)| bit).sum::<u32>(), PERMISSIONS_ADMIN);
        let asked: BTreeSet<u32> = TABLE
            .iter()
            .filter_map(|(_, _, need)| if let Permission(name) = need { Some(bit(name)) } else { None })
            .collect();
        assert!(asked.len() == 19 && !asked.contains(&0), "each permission opens a route");
    }

    #[test]
    fn what_anybody_may_is_a_short_list() {
        let open = TABLE.iter().filter(|(_, _, need)| *need == Nothing).map(|(method, path, _)| (*method, *path));
        let greeting = [("GET", "/"), ("GET", "/heartbeat"), ("POST", "/heartbeat"), ("GET", "/ip")];
        let key = ("GET", "/publickey/{fingerprint}");
        assert_eq!(open.collect::<Vec<_>>(), greeting.into_iter().chain([key]).collect::<Vec<_>>());
        assert_eq!((find(&Method::PUT, "/results"), find(&Method::HEAD, "/action")), (None, None));
    }
}
