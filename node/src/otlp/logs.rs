//! Access logs as records of OpenTelemetry.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value},
    logs::v1::{LogRecord as Record, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};
use prost::Message;
use serde_json::Value as Json;
use weft_proxy::ports::LogRecord;

use super::{Signal, attribute, scope, text, unix_nanos};

impl Signal for LogRecord {
    const METHOD: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    const NAME: &'static str = "logs";

    fn encode(batch: &[Self]) -> Vec<u8> {
        let observed = unix_nanos(SystemTime::now().max(UNIX_EPOCH));
        let mut by_resource: BTreeMap<(String, String, &str), Vec<Record>> = BTreeMap::new();
        for one in batch {
            let workload = one.workload.as_deref();
            let service =
                workload.map_or_else(String::new, |own| format!("{}.{}", own.canonical_service, own.namespace));
            let node = workload.map_or_else(String::new, |own| own.node.to_string());
            by_resource.entry((service, node, &*one.log_name)).or_default().push(Record {
                time_unix_nano: unix_nanos(one.time),
                observed_time_unix_nano: observed,
                body: Some(AnyValue { value: Some(Value::StringValue(one.body.clone())) }),
                attributes: one
                    .attributes
                    .iter()
                    .filter_map(|(name, json)| Some(attribute(name, value(json)?)))
                    .collect(),
                trace_id: one.trace.map(|trace| trace.trace.to_be_bytes().to_vec()).unwrap_or_default(),
                span_id: one.trace.map(|trace| trace.span.to_be_bytes().to_vec()).unwrap_or_default(),
                ..Record::default()
            });
        }
        let resource_logs = by_resource.into_iter().map(|((service, node, log_name), log_records)| {
            let mut attributes = vec![text("log_name", log_name), text("cluster_name", "weft")];
            for (name, value) in [("service.name", service), ("node_name", node)] {
                if !value.is_empty() {
                    attributes.push(text(name, value));
                }
            }
            ResourceLogs {
                resource: Some(Resource { attributes, ..Resource::default() }),
                scope_logs: vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }],
                ..ResourceLogs::default()
            }
        });
        ExportLogsServiceRequest { resource_logs: resource_logs.collect() }.encode_to_vec()
    }

    fn rejected(answer: &[u8]) -> u64 {
        let answer = ExportLogsServiceResponse::decode(answer).unwrap_or_default();
        answer.partial_success.map_or(0, |partial| partial.rejected_log_records.unsigned_abs())
    }
}

/// `None` for nothing, which is no attribute.
fn value(json: &Json) -> Option<Value> {
    let any = |json: &Json| AnyValue { value: value(json) };
    Some(match json {
        Json::Null => return None,
        Json::Bool(bool) => Value::BoolValue(*bool),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::IntValue(int),
            None => Value::DoubleValue(number.as_f64()?),
        },
        Json::String(text) => Value::StringValue(text.clone()),
        Json::Array(items) => Value::ArrayValue(ArrayValue { values: items.iter().map(any).collect() }),
        Json::Object(fields) => {
            let values = fields.iter().map(|(key, json)| KeyValue {
                key: key.clone(),
                value: Some(any(json)),
                ..KeyValue::default()
            });
            Value::KvlistValue(KeyValueList { values: values.collect() })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_one_log_are_told_together() {
        let record = |body: &str| LogRecord {
            time: UNIX_EPOCH + std::time::Duration::from_nanos(7),
            body: body.into(),
            attributes: serde_json::json!({"code": 200, "none": null}).as_object().unwrap().clone(),
            log_name: "mine".into(),
            workload: None,
            trace: Some(weft_policy::access_log::TraceIds { trace: 1, span: 2 }),
        };
        let message = LogRecord::encode(&[record("a"), record("b")]);
        let request = ExportLogsServiceRequest::decode(message.as_slice()).unwrap();
        let [logs] = request.resource_logs.as_slice() else { panic!("{request:?}") };
        let records = &logs.scope_logs[0].log_records;
        assert_eq!((records.len(), records[0].time_unix_nano, records[0].attributes.len()), (2, 7, 1));
        assert_eq!((records[1].trace_id.len(), records[1].span_id.as_slice()), (16, &[0, 0, 0, 0, 0, 0, 0, 2][..]));
    }
}
