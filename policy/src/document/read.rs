//! Reads typed values from a tree, by serde. Errors come with path and place.

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor},
    forward_to_deserialize_any,
};

use super::{
    DocumentError,
    tree::{Entry, Node, Value},
};

/// Reads a value.
pub(crate) fn read<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, DocumentError> {
    T::deserialize(NodeReader(node))
}

/// Reads a map, leaving out some of its keys, which others read.
pub(crate) fn read_without<'de, T: Deserialize<'de>>(
    node: &'de Node,
    left_out: &'de [&'de str],
) -> Result<T, DocumentError> {
    let Value::Map(entries) = &node.value else { return read(node) };
    let entries = entries.iter().filter(|entry| !left_out.contains(&entry.key.as_str()));
    T::deserialize(MapReader { at: node, entries, current: None })
}

#[derive(Clone, Copy)]
struct NodeReader<'de>(&'de Node);

impl<'de> NodeReader<'de> {
    /// Lists and maps may be null, which means empty, as in Kubernetes.
    fn is_null(self) -> bool {
        self.0.value == Value::Null
    }
}

impl<'de> Deserializer<'de> for NodeReader<'de> {
    type Error = DocumentError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DocumentError> {
        let read = match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(ListReader { items: items.iter(), index: 0 }),
            Value::Map(entries) => visitor.visit_map(MapReader { at: self.0, entries: entries.iter(), current: None }),
        };
        read.map_err(|error: DocumentError| error.located(self.0.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DocumentError> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DocumentError> {
        if self.is_null() {
            visitor.visit_seq(ListReader { items: [].iter(), index: 0 })
        } else {
            self.deserialize_any(visitor)
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DocumentError> {
        if !self.is_null() {
            return self.deserialize_any(visitor);
        }
        let nothing = MapReader { at: self.0, entries: [].iter(), current: None };
        visitor.visit_map(nothing).map_err(|error: DocumentError| error.located(self.0.at))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DocumentError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DocumentError> {
        visitor.visit_newtype_struct(self).map_err(|error: DocumentError| error.located(self.0.at))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DocumentError> {
        match &self.0.value {
            Value::Text(_) => visitor.visit_enum(self).map_err(|error: DocumentError| error.located(self.0.at)),
            _ => self.deserialize_str(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

/// Only enums of words: Istio's and Kubernetes' documents have no others.
impl<'de> EnumAccess<'de> for NodeReader<'de> {
    type Error = DocumentError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), DocumentError> {
        Ok((seed.deserialize(self)?, self))
    }
}

impl<'de> VariantAccess<'de> for NodeReader<'de> {
    type Error = DocumentError;

    fn unit_variant(self) -> Result<(), DocumentError> {
        Ok(())
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, DocumentError> {
        seed.deserialize(self)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DocumentError> {
        self.deserialize_any(visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DocumentError> {
        self.deserialize_any(visitor)
    }
}

struct ListReader<'de> {
    items: std::slice::Iter<'de, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for ListReader<'de> {
    type Error = DocumentError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DocumentError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        if item.value == Value::Null {
            // Fields may be null for absent; items may not, as in Kubernetes: an empty rule matches everything.
            let error = DocumentError::invalid("is nothing; an item of a list must be given");
            return Err(error.located(item.at).inside_item(index));
        }
        seed.deserialize(NodeReader(item)).map(Some).map_err(|error| error.located(item.at).inside_item(index))
    }
}

struct MapReader<'de, I> {
    /// The map as a whole.
    at: &'de Node,
    entries: I,
    current: Option<&'de Entry>,
}

impl<'de, I: Iterator<Item = &'de Entry>> MapAccess<'de> for MapReader<'de, I> {
    type Error = DocumentError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DocumentError> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key = seed.deserialize(entry.key.as_str().into_deserializer());
        key.map(Some).map_err(|error: DocumentError| error.located(entry.at).inside_key(&entry.key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DocumentError> {
        let Some(entry) = self.current else { return Err(DocumentError::invalid("a value without a key")) };
        let value = seed.deserialize(NodeReader(&entry.node));
        value.map_err(|error| error.located(entry.at).inside_key(&entry.key))
    }
}

impl<'de, I: Iterator<Item = &'de Entry>> Deserializer<'de> for MapReader<'de, I> {
    type Error = DocumentError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DocumentError> {
        let at = self.at.at;
        visitor.visit_map(self).map_err(|error: DocumentError| error.located(at))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
