//! Who may call which route: one table with MIG's permissions, and what is not in it is not there.

use http::Method;
use muster_engine::access::Permission;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: anybody may.
    Nothing,
    /// An investigator with this permission.
    Permission(Permission),
    /// A loader's key, which nobody has, because there are no loaders.
    Loader,
}

const fn may(permission: Permission) -> Need {
    Need::Permission(permission)
}

use Need::{Loader, Nothing};
use Permission::{
    ActionsLaunch, ActionsRead, AgentsRead, InvestigatorsAdd, InvestigatorsChange, InvestigatorsRead, LoadersAdd,
    LoadersExpect, LoadersKey, LoadersRead, LoadersStatus, ManifestsAdd, ManifestsLoaders, ManifestsRead,
    ManifestsSign, ManifestsStatus, ResultsRead, Search, ServerRead,
};

/// Every route there is.
pub(super) const TABLE: [(&str, &str, Need); 26] = [
    ("GET", "/", Nothing),
    ("GET", "/heartbeat", Nothing),
    ("POST", "/heartbeat", Nothing),
    ("GET", "/ip", Nothing),
    ("GET", "/publickey/{fingerprint}", Nothing),
    ("GET", "/dashboard", may(ServerRead)),
    ("GET", "/action", may(ActionsRead)),
    ("POST", "/action/create/", may(ActionsLaunch)),
    ("GET", "/command", may(ResultsRead)),
    ("GET", "/agent", may(AgentsRead)),
    ("GET", "/search", may(Search)),
    ("GET", "/investigator", may(InvestigatorsRead)),
    ("POST", "/investigator/create/", may(InvestigatorsAdd)),
    ("POST", "/investigator/update/", may(InvestigatorsChange)),
    ("GET", "/loader", may(LoadersRead)),
    ("POST", "/loader/new/", may(LoadersAdd)),
    ("POST", "/loader/status/", may(LoadersStatus)),
    ("POST", "/loader/expect/", may(LoadersExpect)),
    ("POST", "/loader/key/", may(LoadersKey)),
    ("GET", "/manifest", may(ManifestsRead)),
    ("POST", "/manifest/new/", may(ManifestsAdd)),
    ("POST", "/manifest/sign/", may(ManifestsSign)),
    ("POST", "/manifest/status/", may(ManifestsStatus)),
    ("GET", "/manifest/loaders/", may(ManifestsLoaders)),
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
    use muster_engine::access::MIG_PERMISSIONS;

    #[test]
    fn every_permission_of_mig_opens_a_route() {
        for (name, _, permission) in MIG_PERMISSIONS {
            assert!(TABLE.iter().any(|(_, _, need)| *need == may(permission)), "{name}");
        }
        let all: std::collections::BTreeSet<_> = MIG_PERMISSIONS.iter().map(|(_, _, permission)| *permission).collect();
        assert_eq!(all.len(), MIG_PERMISSIONS.len(), "what a person may not do must not follow from something else");
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
