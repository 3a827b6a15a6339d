"""taquba_bulk: one pipeline over many inputs, resumable, on a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba and taquba_workflow only
their public names:

    _cli       the command `taquba bulk`, which taquba's command line imports when it is requested
    _bulk      `Bulk`: one pipeline over many inputs
    _helping   works on items of batches that other processes run
    _pass      one pass over the inputs of a batch: submits items, and writes those that have ended
    _working   the worker loops for items in this process, until the last attempt has ended
    _runner    runs the pipeline as the one step of each item's run, and decides how it continues
    _inputs    inputs of a batch: read a chunk at a time, each an item with a key of its own
    _output    writes records to a sink, each once, however often the process dies
    _pipeline  a pipeline: the function, and the types of its inputs and outputs
    _context   `BulkContext`: the input of a pipeline, and the results that it can remember
    _paid      paid calls: an intent is durable before each call, its result after it
    _running   one run of a batch at a time, over all processes, and what the others know of it
    _shared    the state that the items of a batch share while it runs
    _budget    the budget of a batch: reserved before a call, settled after it, kept in the store
    _cache     results of phases, by their content, for all runs of a store
    _phases    phases of an item: their results and costs, remembered beyond an attempt
    _rates     rate limits: how often items of all processes may do something, by key
    _holds     entries that a process holds for as long as it lives
    _sinks     where the records of ended items go
    _display   shows the progress of a batch: a bar on a terminal, a line now and then elsewhere
    _errors    what can go wrong with a batch, beside the errors of taquba and taquba_workflow
    _report    the progress of a batch, and its final report
    _records   stored records of items and of a batch's output, and the records that callers see
    _costs     costs: amounts by metric, added up without rounding
    _codec     values of a batch's types
    _jsonl     reading inputs from a file, or a stream, of JSON lines
    _stopping  leaving an attempt that cannot continue now, through no fault of its item
    _values    checks of arguments
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
