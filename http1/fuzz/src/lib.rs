//! What the fuzz targets share: a connection read by this codec and by hyper, side by side.

pub mod against_hyper;
