//! File systems behind the traits of `nomina_kernel::vfs`.
pub mod dev;
pub mod devpts;
pub mod proc;
pub mod sysfs;
