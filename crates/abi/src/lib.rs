#![no_std]
//! Layout of the messages between the shim and the supervisor.
