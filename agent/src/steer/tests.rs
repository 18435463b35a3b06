//! What of steering can be tested without a kernel's help: the journal and the words of errors.
