"""The strings of DeepSeek V4's special tokens (spec 15.1). Ids differ between tokenizers, the strings never do.

The bars are U+FF5C (not `|`), the low blocks U+2581 (not `_`). Knows nothing of how they are put together.
"""

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
NOISE = "<｜place▁holder▁no▁799｜>"  # what DSpark's drafter reads at positions that have no token yet

USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
LATEST_REMINDER = "<｜latest_reminder｜>"
THINK = "<think>"
THINK_END = "</think>"
DSML = "｜DSML｜"  # the only part of a DSML tag that is one token: `</` and the name are plain text

ACTION = "<｜action｜>"
QUERY = "<｜query｜>"
AUTHORITY = "<｜authority｜>"
DOMAIN = "<｜domain｜>"
TITLE = "<｜title｜>"
EXTRACTED_URL = "<｜extracted_url｜>"
READ_URL = "<｜read_url｜>"

SPECIAL_TOKENS = (
    *(BOS, EOS, PAD, NOISE, USER, ASSISTANT, LATEST_REMINDER, THINK, THINK_END, DSML),
    *(ACTION, QUERY, AUTHORITY, DOMAIN, TITLE, EXTRACTED_URL, READ_URL),
)
