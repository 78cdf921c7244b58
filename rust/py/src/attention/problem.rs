//! The arguments of a call as one problem, over the arrays of either backend.

use super::hooks::Hooks;
use farspan_core::array::Array;
use farspan_core::attention::problem::{Arrays, DistanceBias, Far, Problem, Rotary, Sequences};
use farspan_core::attention::{Rules, Shape};
use farspan_core::{Error, Result};

/// An array of a hook, not yet one of the backend's.
pub(crate) trait Given<'a> {
    /// The backend's.
    type Arrays: Arrays;

    /// Its last size, 0 where it has none.
    fn columns(&self) -> usize;

    /// As a table, broadcast to `shape`.
    fn table<const N: usize>(
        &'a self,
        argument: &'static str,
        shape: [usize; N],
    ) -> Result<<Self::Arrays as Arrays>::Table<N>>;

    /// As positions `[time]` or `[batch, time]`, broadcast to `shape`.
    fn positions(&'a self, argument: &'static str, shape: [usize; 2]) -> Result<<Self::Arrays as Arrays>::Positions>;
}

/// The large inputs, which tell the sizes of everything else.
pub(crate) struct Inputs<A: Arrays> {
    pub(crate) shape: Shape,
    query: A::Large,
    key: A::Large,
    value: A::Large,
    block_table: Option<A::Pages>,
    rules: Rules,
}

impl<A: Arrays> Inputs<A> {
    /// Refuses arrays that do not fit together, and scalars out of their range.
    pub(crate) fn new<G>(
        [query, key, value]: [A::Large; 3],
        block_table: Option<A::Pages>,
        hooks: &Hooks<G>,
    ) -> Result<Self> {
        let table = block_table.as_ref().map(Array::shape);
        let shape = Shape::of(query.shape(), key.shape(), value.shape(), table)?;
        let Hooks { causal, left, right, keep_first, scale, softcap, .. } = *hooks;
        let rules = Rules::new(shape.head_dim, causal, (left, right), keep_first, scale, softcap)?;
        Ok(Inputs { shape, query, key, value, block_table, rules })
    }

    /// Whether there is no query. Then nothing may be made for each of what can be 2^60 batch entries.
    pub(crate) fn has_no_rows(&self) -> bool {
        [self.shape.batch, self.shape.query_heads, self.shape.query_time].contains(&0)
    }

    /// With the hooks.
    pub(crate) fn problem<'a, G>(self, sequences: A::Sequences, hooks: &'a Hooks<G>) -> Result<Problem<A>>
    where
        G: Given<'a, Arrays = A>,
    {
        let Inputs { shape, query, key, value, block_table, rules } = self;
        let Shape { batch, query_heads, query_time, key_batch, key_time, .. } = shape;
        let (queries, keys) = ([batch, query_time], [key_batch, key_time]);
        let far_queries = some(&hooks.far_query_positions, |x| x.positions("far_query_positions", queries))?;
        let far_keys = some(&hooks.far_key_positions, |x| x.positions("far_key_positions", keys))?;
        let far = match (hooks.border, far_queries, far_keys) {
            (None, None, None) => None,
            (Some(border), Some(query_positions), Some(key_positions)) => {
                Some(Far { border, query_positions, key_positions })
            }
            _ => {
                let expected = "border, far_query_positions and far_key_positions together";
                return Err(Error::argument("rotary", expected, "only some of them"));
            }
        };
        let count = sequences.count(batch);
        let rotary = some(&hooks.inv_freq, |x| {
            let inv_freq = x.table("inv_freq", [count, x.columns()])?;
            Ok(Rotary { inv_freq, magnitude: hooks.magnitude as f32, interleaved: hooks.interleaved, far })
        })?;
        let distance_bias = some(&hooks.distance_table, |x| {
            let table = x.table("distance_bias", [query_heads, x.columns()])?;
            Ok(DistanceBias { table, minimum: hooks.distance_minimum })
        })?;
        Ok(Problem {
            query,
            key,
            value,
            block_table,
            sequences,
            rules,
            query_scale: some(&hooks.query_scale, |x| x.table("query_scale", [batch, query_heads, query_time]))?,
            key_bias: some(&hooks.key_bias, |x| x.table("key_bias", [key_batch, query_heads, key_time]))?,
            distance_bias,
            sink: some(&hooks.sink, |x| x.table("sink", [query_heads]))?,
            query_positions: some(&hooks.query_positions, |x| x.positions("query_positions", queries))?,
            key_positions: some(&hooks.key_positions, |x| x.positions("key_positions", keys))?,
            rotary,
        })
    }
}

fn some<'a, G, T>(given: &'a Option<G>, read: impl FnOnce(&'a G) -> Result<T>) -> Result<Option<T>> {
    given.as_ref().map(read).transpose()
}
