"""taquba_bulk: one pipeline over many inputs, resumable, on a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba and taquba_workflow only
their public names:

    _bulk        the facade `Bulk`: run, stream, progress
    _pass        one pass over the inputs: submits, notices what ends, has it written
    _output      writes records, each once, whatever happens
    _runner      runs the pipeline on one item and says how that goes on
    _pipeline, _context            the pipeline, and what it gets
    _paid, _phases                 calls that are paid for; what is remembered
    _shared, _budget, _rates, _cache   what items share: money, turns, results
    _inputs, _jsonl, _sinks        where inputs come from and records go
    _report, _records, _costs      counts, rows, amounts
    _codec, _stopping, _values, _errors   typed values, leaving early, checks, errors
"""

from taquba_bulk._bulk import Bulk
from taquba_bulk._context import BulkContext
from taquba_bulk._errors import BudgetExceeded, DuplicateKey, FailureThresholdExceeded
from taquba_bulk._jsonl import JsonLines, read_jsonl
from taquba_bulk._paid import PaidCall
from taquba_bulk._pipeline import Pipeline, PipelineObject
from taquba_bulk._records import BulkRecord, ItemStatus
from taquba_bulk._report import BulkReport, ProgressSnapshot
from taquba_bulk._sinks import JsonlSink, NullSink, Sink

__all__ = [
    "BudgetExceeded",
    "Bulk",
    "BulkContext",
    "BulkRecord",
    "BulkReport",
    "DuplicateKey",
    "FailureThresholdExceeded",
    "ItemStatus",
    "JsonLines",
    "JsonlSink",
    "NullSink",
    "PaidCall",
    "Pipeline",
    "PipelineObject",
    "ProgressSnapshot",
    "Sink",
    "read_jsonl",
]
