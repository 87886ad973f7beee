//! Names of Kubernetes pods and containers: the kubelet keeps logs under them (`/var/log/pods/NAMESPACE_POD_UID/CONTAINER`,
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`), so no server need be asked.

use serde::{Deserialize, Serialize};

use crate::procfs::Reads;

/// Where the kubelet keeps logs.
const LOGS: &str = "/var/log";

/// A pod, and one of its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Name of the container.
    pub container: Option<String>,
}

impl Pod {
    /// Its name, as far as that is known.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.uid)
    }
}

/// The pod with this uid, and its container with this id.
pub fn pod(uid: String, container: Option<&str>, reads: &mut Reads) -> Pod {
    pod_in(LOGS, uid, container, reads)
}

fn pod_in(logs: &str, uid: String, container: Option<&str>, reads: &mut Reads) -> Pod {
    let mut known = Pod { uid, ..Pod::default() };
    for name in reads.host_names(&format!("{logs}/pods")) {
        if let Some((namespace, pod)) = pod_of(&name, &known.uid) {
            (known.namespace, known.name) = (Some(namespace.to_owned()), Some(pod.to_owned()));
        }
    }
    let (Some(namespace), Some(pod), Some(id)) = (&known.namespace, &known.name, container) else {
        return known;
    };
    let logs = reads.host_names(&format!("{logs}/containers"));
    known.container = logs.iter().find_map(|name| container_of(name, pod, namespace, id)).map(str::to_owned);
    known
}

/// Namespace and name of the pod with this uid, if the folder is its.
pub fn pod_of<'a>(folder: &'a str, uid: &str) -> Option<(&'a str, &'a str)> {
    // Neither names nor uids have underscores.
    let mut parts = folder.split('_');
    let (namespace, pod, of) = (parts.next()?, parts.next()?, parts.next()?);
    (of == uid && parts.next().is_none()).then_some((namespace, pod))
}

/// Name of the container with this id, if the log is its.
pub fn container_of<'a>(log: &'a str, pod: &str, namespace: &str, id: &str) -> Option<&'a str> {
    log.strip_prefix(pod)?
        .strip_prefix('_')?
        .strip_prefix(namespace)?
        .strip_prefix('_')?
        .strip_suffix(".log")?
        .strip_suffix(id)?
        .strip_suffix('-')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_come_from_the_logs() {
        let logs = std::env::temp_dir().join(format!("tracer-pods-{}", std::process::id()));
        let uid = "0e5c1f0a-6d0c-4d3a-9a59-7b7a3f3d2c11";
        let id = "a".repeat(64);
        fs::create_dir_all(logs.join("containers")).expect("a directory");
        for pod in
            ["shop_web-6f_11111111-6d0c-4d3a-9a59-7b7a3f3d2c11", &format!("shop_mail-7d9f_{uid}"), "odd"]
        {
            fs::create_dir_all(logs.join("pods").join(pod)).expect("a directory");
        }
        for log in [format!("web-6f_shop_web-{id}.log"), format!("mail-7d9f_shop_worker-{id}.log")] {
            fs::write(logs.join("containers").join(log), "").expect("a file");
        }
        let named = |container: Option<&str>| Pod {
            uid: uid.into(),
            namespace: Some("shop".into()),
            name: Some("mail-7d9f".into()),
            container: container.map(str::to_owned),
        };
        let unknown = |uid: &str| Pod { uid: uid.into(), ..Pod::default() };
        let pod = |uid: &str, container| {
            pod_in(logs.to_str().expect("text"), uid.into(), Some(container), &mut Reads::new())
        };
        assert_eq!(pod(uid, &id), named(Some("worker")));
        assert_eq!(pod(uid, "another"), named(None));
        assert_eq!(pod("another", &id), unknown("another"));
        fs::remove_dir_all(&logs).expect("is removed");
        assert_eq!(pod(uid, &id), unknown(uid));
    }
}
