//! The series of connections of services: requests that they have not answered, and connections that they have not closed.

use std::time::Duration;

use super::series::OTHER;
use crate::assess::sink::OfService;

/// Labels of a service, and how it stands with its connections.
pub struct ServiceSeries {
    /// Values of the labels of `tracer_incoming_requests`.
    pub labels: [String; 6],
    /// How many connections.
    pub number: usize,
    /// For how long the oldest has been so.
    pub oldest: Duration,
}

impl ServiceSeries {
    /// Of these services. Those that differ in nothing that a label says are one, as the loopback addresses of two networks.
    pub fn all(services: &[OfService]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::with_capacity(services.len());
        for of in services.iter().map(Self::of) {
            match all.iter_mut().find(|known| known.labels == of.labels) {
                Some(known) => {
                    known.number += of.number;
                    known.oldest = known.oldest.max(of.oldest);
                }
                None => all.push(of),
            }
        }
        all
    }

    /// Of one; what there was no room for has no names.
    fn of(service: &OfService) -> Self {
        let or_empty = |text: Option<&String>| text.cloned().unwrap_or_default();
        let labels = match &service.owner {
            None => [OTHER; 6].map(str::to_owned),
            Some((comm, who, local)) => {
                let pod = who.pod.as_ref();
                let container = pod.and_then(|pod| pod.container.as_ref()).or(who.container.as_ref());
                [
                    comm.to_string(),
                    or_empty(who.unit.as_ref()),
                    or_empty(pod.and_then(|pod| pod.namespace.as_ref())),
                    pod.map(|pod| pod.label().to_owned()).unwrap_or_default(),
                    or_empty(container),
                    local.map(|local| local.socket_addr().to_string()).unwrap_or_default(),
                ]
            }
        };
        Self { labels, number: service.number, oldest: service.oldest }
    }
}
