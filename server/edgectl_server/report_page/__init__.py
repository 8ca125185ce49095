"""The report of a version as one self-contained HTML page: a document in, a text out.

Pure: no I/O, no clock. Every name, label and reason in the document comes from whoever pushed the
model, and is hostile: it is read with bounds (`document`), and what is not markup of ours cannot
become any (`html`). The page has no script, loads nothing and names no address, so that it can be
kept, sent and printed; each picture has its numbers in a table beside it.
"""
