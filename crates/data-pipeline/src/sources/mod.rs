//! Sources of samples.
