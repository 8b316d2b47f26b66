"""A collector of OpenTelemetry: gRPC on 127.0.0.1:4317 and HTTP on 127.0.0.1:4318. Each span, each log record and each data
point is a line of JSON in the file that it is told."""

import http.server
import json
import sys
import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

out = open(sys.argv[1], "a", buffering=1)
lock = threading.Lock()


def value(any_value):
    kind = any_value.WhichOneof("value")
    return None if kind is None else getattr(any_value, kind)


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def write(line):
    with lock:
        out.write(json.dumps(line) + "\n")


def take_spans(request, via):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                write({
                    "via": via,
                    "resource": attributes(resource.resource.attributes),
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.kind,
                    "status": span.status.code,
                    "tags": attributes(span.attributes),
                    "took": span.end_time_unix_nano - span.start_time_unix_nano,
                })


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        take_spans(request, "grpc")
        return trace_service_pb2.ExportTraceServiceResponse()


class Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def Export(self, request, context):
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    write({
                        "resource": attributes(resource.resource.attributes),
                        "body": value(record.body),
                        "trace": record.trace_id.hex(),
                        "attributes": attributes(record.attributes),
                    })
        return logs_service_pb2.ExportLogsServiceResponse()


def take_metrics(request, via):
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    number = {"buckets": list(point.bucket_counts), "count": point.count} if kind == "histogram" else {"value": point.as_double}
                    write({
                        "via": via,
                        "resource": attributes(resource.resource.attributes),
                        "metric": metric.name,
                        "kind": kind,
                        "labels": attributes(point.attributes),
                        **number,
                    })


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def Export(self, request, context):
        take_metrics(request, "grpc")
        return metrics_service_pb2.ExportMetricsServiceResponse()


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["content-type"] == "application/x-protobuf"
        if self.path == "/v1/traces":
            take_spans(trace_service_pb2.ExportTraceServiceRequest.FromString(body), "http")
        else:
            assert self.path == "/v1/metrics"
            take_metrics(metrics_service_pb2.ExportMetricsServiceRequest.FromString(body), "http")
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = grpc.server(futures.ThreadPoolExecutor(4))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)
metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
assert server.add_insecure_port("127.0.0.1:4317")
server.start()
http.server.ThreadingHTTPServer(("127.0.0.1", 4318), Http).serve_forever()
