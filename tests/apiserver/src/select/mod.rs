//! Label and field selectors, with the API server's grammar and complaints.

mod field;
mod label;

pub(crate) use field::Fields;
pub(crate) use label::Labels;

use crate::store::Stored;

/// What a list, a watch or a deletion of many is about.
#[derive(Clone, Default)]
pub(crate) struct Selection {
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
}

impl Selection {
    pub(crate) fn matches(&self, object: &Stored) -> bool {
        self.labels.matches(&object.labels) && self.fields.matches(object)
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}
