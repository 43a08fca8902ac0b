//! Checks of the tree: imports, sizes, names, unsafe.
