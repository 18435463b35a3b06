//! Types shared with the kernel.
#![no_std]
