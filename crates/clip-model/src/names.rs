//! `Display` and `FromStr` for enums whose values have fixed names.

/// Implements `Display` and `FromStr` for an enum. `kind` describes the enum in error messages.
macro_rules! named_enum {
    ($type:ident, $kind:literal, $($variant:ident = $name:literal),+ $(,)?) => {
        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(match self {
                    $($type::$variant => $name,)+
                })
            }
        }


        impl ::std::str::FromStr for $type {
            type Err = $crate::Error;

            fn from_str(name: &str) -> $crate::Result<Self> {
                match name {
                    $($name => Ok($type::$variant),)+
                    _ => Err($crate::Error::UnknownName {
                        kind: $kind,
                        name: name.into(),
                        known: &[$($name),+],
                    }),
                }
            }
        }
    };
}

pub(crate) use named_enum;
