//! What checks of endpoints find.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use weft_core::snapshot::ServicePortKey;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Port {
    destination_service_namespace: String,
    destination_service_name: String,
    destination_service_port: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Check {
    destination_service_namespace: String,
    destination_service_name: String,
    destination_service_port: u16,
    result: &'static str,
    reason: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Health {
    checks: Family<Check, Counter>,
    unhealthy: Family<Port, Gauge>,
}

impl Port {
    fn of(key: &ServicePortKey) -> Self {
        Self {
            destination_service_namespace: key.service.namespace.to_string(),
            destination_service_name: key.service.name.to_string(),
            destination_service_port: key.port,
        }
    }
}

impl Health {
    pub(super) fn checked(&self, key: &ServicePortKey, good: bool, reason: &'static str) {
        let Port { destination_service_namespace, destination_service_name, destination_service_port } = Port::of(key);
        let result = if good { "success" } else { "failure" };
        let labels =
            Check { destination_service_namespace, destination_service_name, destination_service_port, result, reason };
        self.checks.get_or_create(&labels).inc();
    }

    pub(super) fn unhealthy(&self, key: &ServicePortKey, count: usize) {
        self.unhealthy.get_or_create(&Port::of(key)).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn forget(&self, key: &ServicePortKey) {
        self.unhealthy.remove(&Port::of(key));
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Checks of endpoints, by how they went";
        registry.register("health_checks", help, self.checks.clone());
        let help = "Endpoints that checks find unhealthy now, of service ports that pods of this node use";
        registry.register("unhealthy_endpoints", help, self.unhealthy.clone());
    }
}
