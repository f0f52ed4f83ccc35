//! File systems behind the traits of `nomina_kernel::vfs`.
