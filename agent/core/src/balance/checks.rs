//! What active checks say of one endpoint: it is well until so many in a row have failed, and again when so many in a row
//! have not.

use crate::model::HealthCheck;

/// The verdict of an endpoint's checks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Checked {
    unhealthy: bool,
    /// Checks in a row that went like the last one.
    run: u32,
    /// How that went.
    good: bool,
}

impl Checked {
    /// Whether it takes part in balancing, as far as checks can tell.
    pub(super) fn is_healthy(&self) -> bool {
        !self.unhealthy
    }

    /// Notes a check. Returns whether it changes the verdict.
    pub(super) fn note(&mut self, good: bool, settings: &HealthCheck) -> bool {
        self.run = if self.good == good { self.run.saturating_add(1) } else { 1 };
        self.good = good;
        let over = if good { self.is_proven(settings) } else { self.run >= settings.unhealthy };
        let changes = over && self.unhealthy == good;
        self.unhealthy ^= changes;
        changes
    }

    /// Whether so many checks in a row were good that it may have what it was denied.
    pub(super) fn is_proven(&self, settings: &HealthCheck) -> bool {
        self.good && self.run >= settings.healthy
    }

    /// Good checks so far say nothing of what comes now.
    pub(super) fn begin_anew(&mut self) {
        self.run = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HealthProbe;
    use std::time::Duration;

    #[test]
    fn so_many_in_a_row_decide() {
        let second = Duration::from_secs(1);
        let settings =
            HealthCheck { probe: HealthProbe::Tcp, interval: second, timeout: second, healthy: 2, unhealthy: 3 };
        let mut checked = Checked::default();
        let mut after = |results: &[bool]| {
            results.iter().for_each(|good| _ = checked.note(*good, &settings));
            checked.is_healthy()
        };
        assert!(after(&[]), "healthy until it is known better");
        assert!(after(&[false, false, true, false, false]));
        assert!(!after(&[false]));
        assert!(!after(&[true, false, true]));
        assert!(after(&[true]));
        assert!(checked.is_proven(&settings));
        checked.begin_anew();
        assert!(!checked.is_proven(&settings) && !checked.note(true, &settings) && !checked.is_proven(&settings));
        assert!(!checked.note(true, &settings) && checked.is_proven(&settings));
    }
}
