//! Whom a wait belongs to where something bounded is shared: its container, its system unit, or its user. Pure.

use std::fmt;

use crate::resolve::process::Who;

/// Who has a share of what is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner<'a> {
    /// A container, by its id.
    Container(&'a str),
    /// A unit of the system's service manager.
    Unit(&'a str),
    /// A user: of what is in no unit, or below `user.slice`, where users make and name units themselves.
    User(u32),
}

impl<'a> Owner<'a> {
    /// Of a process; `uid` is its thread's user, for where the process could not be read.
    pub fn of(who: &'a Who, uid: u32) -> Self {
        Self::at(who.cgroup.as_deref(), who.container.as_deref(), who.unit.as_deref(), who.uid.unwrap_or(uid))
    }

    /// Of a process in this control group, container and unit.
    pub fn at(cgroup: Option<&str>, container: Option<&'a str>, unit: Option<&'a str>, uid: u32) -> Self {
        match (user_slice(cgroup.unwrap_or_default()), container, unit) {
            (Some(slice), ..) => Owner::User(slice.unwrap_or(uid)),
            (None, Some(id), _) => Owner::Container(id),
            (None, None, Some(name)) => Owner::Unit(name),
            (None, None, None) => Owner::User(uid),
        }
    }
}

/// Whether a control group is below `user.slice`; whose, if `user-UID.slice` says so. What a user does there by `sudo` is in
/// that user's share.
fn user_slice(cgroup: &str) -> Option<Option<u32>> {
    let below = cgroup.strip_prefix("/user.slice/")?;
    let first = below.split('/').next()?;
    Some(first.strip_prefix("user-").and_then(|uid| uid.strip_suffix(".slice")?.parse().ok()))
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Container(id) => write!(out, "container {id}"),
            Owner::Unit(name) => write!(out, "unit {name}"),
            Owner::User(uid) => write!(out, "user {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_a_unit_or_a_user() {
        let owner = |cgroup, container, unit| Owner::at(Some(cgroup), container, unit, 33);
        assert_eq!(owner("/", None, None), Owner::User(33));
        assert_eq!(
            owner("/system.slice/cron.service", None, Some("cron.service")),
            Owner::Unit("cron.service")
        );
        assert_eq!(owner("/system.slice/docker-ab.scope", Some("ab"), None), Owner::Container("ab"));
        assert_eq!(Owner::at(None, None, None, 7), Owner::User(7));
    }

    /// A user may have as many sessions, units and containers as they like, of any name: all of it is one share.
    #[test]
    fn what_is_below_a_users_slice_is_that_users() {
        let below = |path: &str, container, unit| {
            Owner::at(Some(&format!("/user.slice/user-1000.slice/{path}")), container, unit, 0)
        };
        assert_eq!(below("session-3.scope", None, Some("session-3.scope")), Owner::User(1000));
        let unit = "user@1000.service/app.slice/nginx.service";
        assert_eq!(below(unit, None, Some("nginx.service")), Owner::User(1000));
        assert_eq!(below("user@1000.service/docker-ab.scope", Some("ab"), None), Owner::User(1000));
        assert_eq!(Owner::at(Some("/user.slice/x"), None, None, 5), Owner::User(5));
    }
}
