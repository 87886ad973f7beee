//! Names of Kubernetes pods and containers: the kubelet keeps logs under them (`/var/log/pods/NAMESPACE_POD_UID/CONTAINER`,
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`), so no server need be asked.

use crate::{model::pod::Pod, procfs::Reads};

/// Where the kubelet keeps logs.
const LOGS: &str = "/var/log";

/// The pod with this uid, and its container with this id.
pub fn pod(uid: String, container: Option<&str>, reads: &mut Reads) -> Pod {
    let pods = reads.host_names(&format!("{LOGS}/pods"));
    named(uid, container, &pods, || reads.host_names(&format!("{LOGS}/containers")))
}

/// The same by the names of the folders of pods, and of the logs of containers. Pure.
fn named(uid: String, container: Option<&str>, pods: &[String], logs: impl FnOnce() -> Vec<String>) -> Pod {
    let Some((namespace, pod)) = pods.iter().find_map(|name| pod_of(name, &uid)) else {
        return Pod { uid, ..Pod::default() };
    };
    let of_container =
        |id: &str| logs().iter().find_map(|name| container_of(name, pod, namespace, id).map(str::to_owned));
    let container = container.and_then(of_container);
    Pod { uid, namespace: Some(namespace.to_owned()), name: Some(pod.to_owned()), container }
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
    use super::*;

    #[test]
    fn names_come_from_the_logs() {
        let uid = "0e5c1f0a-6d0c-4d3a-9a59-7b7a3f3d2c11";
        let id = "a".repeat(64);
        let pods = [
            "shop_web-6f_11111111-6d0c-4d3a-9a59-7b7a3f3d2c11".to_owned(),
            format!("shop_mail-7d9f_{uid}"),
            "odd".to_owned(),
        ];
        let logs = || vec![format!("web-6f_shop_web-{id}.log"), format!("mail-7d9f_shop_worker-{id}.log")];
        let of = |container: Option<&str>| Pod {
            uid: uid.into(),
            namespace: Some("shop".into()),
            name: Some("mail-7d9f".into()),
            container: container.map(str::to_owned),
        };
        let unknown = |uid: &str| Pod { uid: uid.into(), ..Pod::default() };
        assert_eq!(named(uid.into(), Some(&id), &pods, logs), of(Some("worker")));
        assert_eq!(named(uid.into(), Some("another"), &pods, logs), of(None));
        assert_eq!(named("another".into(), Some(&id), &pods, logs), unknown("another"));
        assert_eq!(named(uid.into(), Some(&id), &[], logs), unknown(uid));
    }
}
