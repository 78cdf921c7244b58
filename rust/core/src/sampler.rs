//! The settings that people sample with: what changes single logits ([`changes`]), what cuts the distribution
//! ([`cuts`]), and which values are valid
//! ([`settings`], and [`problem`] for a whole call).

pub mod changes;
pub mod cuts;
pub mod problem;
pub mod settings;

pub use changes::{Change, Lists, Penalties, changes};
pub use cuts::{Kept, Summary, Totals, Undecided, cut, scaled};
pub use problem::{MAX_TOP, Mask, Ragged, Settings, check_top};
pub use settings::{Cuts, ORDERS, Order, xtc_applies};
