//! The shim, as an embedded ELF image.
