//! Lists of arguments that Python keeps as a NamedTuple and Rust reads by name.

/// Declares a struct that is read from an object's attributes of the same names, and lists these names, so that a test
/// can compare them with the NamedTuple's.
macro_rules! named {
    (
        $(#[$about:meta])*
        $visibility:vis struct $name:ident $(<$array:ident>)? { $($(#[$field_about:meta])* $field:ident: $kind:ty,)* }
    ) => {
        $(#[$about])*
        #[derive(pyo3::FromPyObject)]
        $visibility struct $name $(<$array>)? {
            $($(#[$field_about])* $visibility $field: $kind,)*
        }

        impl $(<$array>)? $name $(<$array>)? {
            /// The fields' names.
            $visibility const NAMES: &[&str] = &[$(stringify!($field)),*];
        }
    };
}
pub(crate) use named;
