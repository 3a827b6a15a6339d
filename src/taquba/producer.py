"""Producers by themselves: importing this loads no storage engine."""

from taquba._producer.producer import Producer, Receipt
from taquba._producer.threads import SyncProducer

__all__ = ["Producer", "Receipt", "SyncProducer"]
