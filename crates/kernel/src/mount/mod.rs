//! Mounts and mount namespaces (`mount_namespaces(7)`).

/// One mount (placeholder until the mount tree lands).
pub struct Mount;

/// A mount namespace (placeholder until the mount tree lands).
pub struct MntNamespace;
