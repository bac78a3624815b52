#![no_std]
//! To come.
