//! How the model's words are written in JSON: an enum by its name, and read again.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::model::{
    cgroup::Owner,
    class::{Class, Level},
    pod::Pod,
    tcp::TcpState,
    wait::Suspended,
};

macro_rules! by_name {
    ($($kind:ty: $name:path, $all:expr;)+) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str($name(*self))
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                let named = $all.into_iter().find(|one| $name(*one) == text);
                named.ok_or_else(|| D::Error::custom(format_args!("unknown name `{text}`")))
            }
        }
    )+};
}

by_name! {
    Class: Class::label, Class::ALL.iter().copied();
    Level: Level::label, Level::ALL;
    Suspended: Suspended::label, Suspended::ALL;
    TcpState: TcpState::name, TcpState::NAMES.map(|(state, _)| state);
}

/// [`Owner`], as it is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Owner", rename_all = "snake_case")]
enum OwnerObject {
    Unit(String),
    Container(String),
    User(u32),
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        OwnerObject::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        OwnerObject::deserialize(from)
    }
}

/// [`Pod`], as it is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Pod")]
struct PodObject {
    uid: String,
    namespace: Option<String>,
    name: Option<String>,
    container: Option<String>,
}

impl Serialize for Pod {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        PodObject::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        PodObject::deserialize(from)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn is_written<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T, text: &str) {
        assert_eq!(serde_json::to_string(&value).expect("it is written"), text);
        assert_eq!(serde_json::from_str::<T>(text).expect("it is read"), value);
    }

    #[test]
    fn words_are_written_as_they_were_and_read_again() {
        is_written(Class::Mutex, r#""mutex""#);
        is_written(Level::Doubtful, r#""doubtful""#);
        is_written(Suspended::Frozen, r#""frozen""#);
        is_written(TcpState::NewSynRecv, r#""NEW_SYN_RECV""#);
        is_written(Owner::Unit("a.service".into()), r#"{"unit":"a.service"}"#);
        is_written(Owner::User(33), r#"{"user":33}"#);
        for wrong in [r#""muteX""#, r#""""#, "7", "null"] {
            assert!(serde_json::from_str::<Class>(wrong).is_err(), "{wrong}");
        }
        for class in Class::ALL {
            assert_eq!(serde_json::from_str::<Class>(&format!("{:?}", class.label())).ok(), Some(*class));
        }
    }
}
