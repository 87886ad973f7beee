//! Does tracer do what it says on a real kernel, with real processes? One module a behaviour.
//!
//! Needs root, and fails without it. `TRACER_BIN` and `TRACER_WAITER` name the programs; without them they are
//! looked for beside this one.

mod aged;
mod agent_api;
mod agent_baselines;
mod agent_calls;
mod agent_canary;
mod agent_clock;
mod agent_config;
mod agent_confined;
mod agent_contract;
mod agent_counters;
mod agent_crash;
mod agent_crowded;
mod agent_ends;
mod agent_files;
mod agent_history;
mod agent_hook;
mod agent_limits;
mod agent_many;
mod agent_metrics;
mod agent_reload;
mod agent_restart;
mod agent_restless;
mod agent_robust;
mod agent_socket;
mod agent_stalls;
mod agent_starved;
mod agent_stopped;
mod agent_unit;
mod attacks;
mod classes;
mod crowds;
mod doctor;
mod errors;
mod histogram;
mod hung_mount;
mod kernel_functions;
mod proc_source;
mod ps_ages;
mod ps_contract;
mod ps_held;
mod ps_leaving;
mod ps_many;
mod ps_races;
mod ps_registers;
mod ps_restarted;
mod ps_targets;
mod ps_terminal;
mod ps_who;
mod semaphores;
mod sets;
mod top;
mod trace;
mod why;
