//! Names of Kubernetes pods and containers: the kubelet keeps logs under them (`/var/log/pods/NAMESPACE_POD_UID/CONTAINER`,
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`), so no server need be asked.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

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
pub fn pod(uid: String, container: Option<&str>) -> Pod {
    pod_in(Path::new(LOGS), uid, container)
}

fn pod_in(logs: &Path, uid: String, container: Option<&str>) -> Pod {
    let mut known = Pod { uid, ..Pod::default() };
    for entry in fs::read_dir(logs.join("pods")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // Neither names nor uids have underscores.
        let parts: Vec<&str> = name.to_str().unwrap_or_default().split('_').collect();
        if let [namespace, pod, of] = parts[..]
            && of == known.uid
        {
            (known.namespace, known.name) = (Some(namespace.to_owned()), Some(pod.to_owned()));
        }
    }
    let (Some(namespace), Some(pod), Some(id)) = (&known.namespace, &known.name, container) else {
        return known;
    };
    let (before, after) = (format!("{pod}_{namespace}_"), format!("-{id}.log"));
    for entry in fs::read_dir(logs.join("containers")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of_it = name.to_str().and_then(|name| name.strip_prefix(&before)?.strip_suffix(&after));
        if let Some(container) = of_it {
            known.container = Some(container.to_owned());
            break;
        }
    }
    known
}

#[cfg(test)]
mod tests {
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
        assert_eq!(pod_in(&logs, uid.into(), Some(&id)), named(Some("worker")));
        assert_eq!(pod_in(&logs, uid.into(), Some("another")), named(None));
        assert_eq!(pod_in(&logs, "another".into(), Some(&id)), unknown("another"));
        fs::remove_dir_all(&logs).expect("is removed");
        assert_eq!(pod_in(&logs, uid.into(), Some(&id)), unknown(uid));
    }
}
