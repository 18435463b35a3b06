//! The lab and what its journeys share.
