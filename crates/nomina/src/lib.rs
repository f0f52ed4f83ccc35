//! Nomina: run unmodified Linux programs in namespaces of their own, without privilege.
