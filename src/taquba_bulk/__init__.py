"""taquba_bulk: one pipeline over many inputs, resumable, on a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba and taquba_workflow only
their public names:

    _cli       the command `taquba bulk`, which taquba's command line imports when it is asked for
    _bulk      `Bulk`: one pipeline over many inputs
    _pass      one pass over the inputs of a batch: submits, notices what ends, and has it written
    _runner    runs the pipeline as the one step of each item's run, and says how the item goes on
    _inputs    inputs of a batch: read a chunk at a time, each an item with a key of its own
    _output    writes records to a sink, each once, however often the process dies
    _pipeline  a pipeline: the function, and the types of what goes in and comes out
    _context   what a pipeline gets: its input, and what it can have remembered
    _paid      calls that are paid for: an intent is durable before each, its result after it
    _shared    what the items of a batch share while it runs
    _budget    the budget of a batch: reserved before a call, settled after it, kept in the store
    _cache     what phases came to, by their content, for all runs of a store
    _phases    phases of an item: what each came to, and what it cost, remembered beyond an attempt
    _rates     rate limits: how often items may do something, by key
    _sinks     where the records of ended items go
    _display   shows people how far a batch is: a bar on a terminal, a line now and then elsewhere
    _errors    what can go wrong with a batch, beside the errors of taquba and taquba_workflow
    _report    how far a batch is, and how it has ended
    _records   what is kept of an item and of a batch's output, and what callers see of an item
    _costs     costs: amounts by metric, added up without rounding
    _codec     values of a batch's types
    _jsonl     reading inputs from a file, or a stream, of JSON lines
    _stopping  how an attempt is left that cannot go on now, through no fault of its item
    _values    checks of what callers pass in
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
