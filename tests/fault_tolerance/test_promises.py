"""What went wrong in the first version, and with hosts that disagree: what is promised now, and the test that shows it.

Of 102 faults on running jobs 37 did not end as promised; 80 launches on 2 to 4 processes then found that hosts which
disagree lose a run. Each kind has a row. `test_each_row_has_its_test` fails if a test is renamed or removed.
"""

import ast
import functools
import pathlib
from typing import NamedTuple

from cover_jax import errors

ROOT = pathlib.Path(__file__).parents[2]
ANEW, GOES_ON, SAVED = "made anew", "goes on, and says so", "the step is saved"


class Row(NamedTuple):
    """One kind of fault.

    Attributes:
        fault: what was done.
        was: how it ended in the first version: "silent", "nameless", "unsaved", "false" cause, or "disagreement".
        promise: an exit code, or what else happens.
        test: FILE::FUNCTION below tests/; with a part in brackets, the id or a case of that name stands in the file.
    """

    fault: str
    was: str
    promise: int | str
    test: str


CONTENTS = "data_pipelines/stream/test_contents.py::test_other_records_of_the_same_size_are_noticed"
RUN = "checkpoint/test_checkpoint.py::test_another_run_is_refused"
SMALL = "fault_tolerance/test_small_files.py::test_other_content_is_made_anew_or_refused"
FLIPPED = "fault_tolerance/test_small_files.py::test_every_flipped_bit_is_noticed_or_changes_nothing"
FULL = "fault_tolerance/test_storage_at_start.py::test_training_does_not_start_where_it_cannot_save"
HOSTS = "fault_tolerance/test_disagreement.py::test_what_differs_is_named_on_all_hosts"
COMMON = "parallel/test_hosts.py::test_the_command_is_described_without_what_is_a_host_s_own"
FIRST = "parallel/test_hosts.py::test_the_first_difference_is_named"
ROLL = "parallel/test_roll_call.py::"

FAULTS = (
    Row("labels corrected, prepared again", "silent", errors.CONFIG, f"{CONTENTS}[a label]"),
    Row("records in another order", "silent", errors.CONFIG, f"{CONTENTS}[order]"),
    Row("a clip encoded again", "silent", errors.CONFIG,
        "data_pipelines/stream/test_contents.py::test_what_differs_is_told"),
    Row("other validation data", "silent", errors.CONFIG, f"{RUN}[validation]"),
    Row("a flipped bit in a file of leaks", "silent", ANEW, f"{FLIPPED}[leaks]"),
    Row("another version of Python, jax or this package", "silent", GOES_ON,
        "checkpoint/test_checkpoint.py::test_other_versions_are_told"),
    Row("another number of steps", "silent", GOES_ON,
        "training/test_optimizer.py::test_another_number_of_steps_says_what_becomes_of_the_rate"),
    Row("a checkpoint renamed or copied to another step", "silent", "refused by name",
        "checkpoint/test_checkpoint.py::test_a_renamed_checkpoint_is_refused_by_name_and_verify_finds_it"),
    Row("workdir on a full disk", "nameless", errors.NOT_SAVED, f"{FULL}[full]"),
    Row("workdir out of inodes", "nameless", errors.NOT_SAVED, f"{FULL}[no inodes]"),
    Row("workdir read-only", "nameless", errors.NOT_SAVED, f"{FULL}[read-only]"),
    Row("workdir of another user", "nameless", errors.CONFIG,
        "fault_tolerance/test_storage_at_start.py::test_a_workdir_of_another_user_is_the_user_s_mistake"),
    Row("TensorBoard's folder cannot be written", "nameless", GOES_ON,
        "fault_tolerance/test_storage_at_start.py::test_curves_that_cannot_be_written_are_named_and_left_out"),
    Row("facts and indices cannot be written", "nameless", GOES_ON,
        "fault_tolerance/test_storage_at_start.py::test_what_is_kept_beside_the_data_is_computed_again"),
    Row("a preparation on a full disk", "nameless", errors.FAILED,
        "fault_tolerance/test_storage_at_start.py::test_a_preparation_names_the_folder_that_cannot_be_written"),
    Row("--mode=evaluate on a read-only workdir", "nameless", errors.DONE,
        "fault_tolerance/test_storage_at_start.py::"
        "test_evaluation_of_a_run_on_read_only_storage_prints_its_table"),
    Row("slow storage at the start", "nameless", errors.HUNG,
        "fault_tolerance/test_storage_at_start.py::test_storage_that_does_not_answer_ends_a_start_in_its_time_with_stacks"),
    Row("a damaged lease", "nameless", ANEW, f"{SMALL}[lease]"),
    Row("a damaged first_start.json", "nameless", ANEW, f"{SMALL}[first_start]"),
    Row("a damaged manifest", "nameless", GOES_ON, f"{SMALL}[doctors_manifest]"),
    Row("damaged facts", "nameless", ANEW, f"{SMALL}[measured_facts]"),
    Row("a damaged file of leaks", "nameless", ANEW, f"{SMALL}[leaks]"),
    Row("a damaged dataset_info.json or features.json", "nameless", errors.CONFIG, f"{SMALL}[dataset_info]"),
    Row("damaged class names", "nameless", errors.CONFIG, f"{SMALL}[class_names]"),
    Row("a damaged refused.csv", "nameless", errors.CONFIG, f"{SMALL}[refused_files]"),
    Row("damaged predictions", "nameless", errors.DAMAGED, f"{SMALL}[predictions]"),
    Row("a damaged offset index", "nameless", ANEW, f"{SMALL}[offset_index]"),
    Row("damaged metadata of a checkpoint", "nameless", "the checkpoint before is used", f"{SMALL}[checkpoint_meta]"),
    Row("damaged accuracies of a checkpoint", "nameless", "the checkpoint before is used",
        f"{SMALL}[checkpoint_accuracies]"),
    Row("an accelerator that another process holds", "nameless", errors.CONFIG,
        "parallel/test_backend.py::test_the_reason_and_what_would_be_right_are_one_line[busy]"),
    Row("a device with too little memory", "nameless", errors.CONFIG,
        "parallel/test_backend.py::test_a_device_without_enough_memory_ends_a_run_with_what_to_change"),
    Row("a record that is a playlist or an SDP", "nameless", "an undecodable example",
        "data_pipelines/media/test_opening.py::test_hostile_records_are_undecodable"),
    Row("a record that a file of the machine is read by", "silent", "nothing else is opened",
        "data_pipelines/media/test_opening.py::test_whitelists_are_given"),
    Row("a step of the clock, forward during a save and back after it", "unsaved", GOES_ON,
        "fault_tolerance/test_clocks.py::test_a_clock_that_is_set_by_hours_during_saves_ends_nothing"),
    Row("the same in the last save", "unsaved", GOES_ON,
        "fault_tolerance/test_clocks.py::test_a_clock_that_is_set_by_hours_during_saves_ends_nothing[[3, 6, 9, 12]"),
    Row("a step of the clock on one of two hosts, before they meet or later; clocks that differ", "unsaved", GOES_ON,
        "fault_tolerance/test_clocks.py::test_hosts_whose_clocks_differ_by_hours_and_are_set_end_nothing"),
    Row("SIGTERM to one of two hosts whose clocks differ", "unsaved", SAVED,
        "fault_tolerance/test_clocks.py::test_hosts_whose_clocks_differ_save_one_step_when_one_is_told_to_end"),
    Row("SIGHUP", "unsaved", SAVED,
        "fault_tolerance/test_process.py::test_signals_save_once_and_end_at_the_second_ctrl_c"),
    Row("Ctrl-C", "unsaved", SAVED,
        "fault_tolerance/test_signals.py::test_ctrl_c_saves_and_ends_all_and_the_second_one_ends_at_once"),
    Row("Ctrl-C of launch/local.sh, whose help said that it saves", "false", SAVED,
        "test_launch.py::test_local_lets_every_process_save_when_it_is_stopped"),
    Row("JAX_PLATFORMS=cuda without CUDA, said to be damage", "false", errors.CONFIG,
        "parallel/test_backend.py::test_checkpoints_are_not_blamed_for_a_missing_backend"),
    Row("another learning rate", "disagreement", errors.CONFIG, f"{HOSTS}[learning rate]"),
    Row("another seed", "disagreement", errors.CONFIG, f"{FIRST}[config.seed]"),
    Row("other steps, batch size or intervals", "disagreement", errors.CONFIG, f"{FIRST}[config.steps]"),
    Row("other code, versions or environment", "disagreement", errors.CONFIG, COMMON),
    Row("other records or another order", "disagreement", errors.CONFIG, f"{HOSTS}[data]"),
    Row("other class names", "disagreement", errors.CONFIG, f"{HOSTS}[class names]"),
    Row("records that host 0 does not know", "disagreement", errors.CONFIG,
        "parallel/test_hosts.py::test_all_hosts_hear_the_same_and_what_one_does_not_know_the_others_compare"),
    Row("another workdir", "disagreement", errors.CONFIG, f"{HOSTS}[workdir]"),
    Row("another number of devices", "disagreement", errors.CONFIG, f"{HOSTS}[devices]"),
    Row("a config that cannot be, on one host", "disagreement", errors.CONFIG, f"{HOSTS}[invalid]"),
    Row("other copies of the state", "disagreement", errors.NOT_SAVED,
        "checkpoint/test_checkpoint.py::test_a_state_that_differs_between_hosts_is_not_saved"),
    Row("a taken port", "disagreement", errors.CONFIG, f"{ROLL}test_a_taken_port_is_named"),
    Row("a name that cannot be resolved; an id out of range", "disagreement", errors.CONFIG,
        f"{ROLL}test_what_cannot_be_right_is_refused_by_name"),
    Row("two processes with one id", "disagreement", errors.CONFIG, f"{ROLL}test_two_processes_with_one_id_end_all"),
    Row("a process too many", "disagreement", errors.CONFIG, f"{ROLL}test_another_number_of_processes_ends_both"),
    Row("a host that returns after the others have met", "disagreement", errors.LOST_PEER,
        f"{ROLL}test_a_process_that_returns_after_the_roll_call_may_start_again"),
    Row("closed standard output", "disagreement", GOES_ON,
        "fault_tolerance/test_process.py::test_an_output_that_is_closed_loses_what_is_printed_and_nothing_else"),
    Row("a kill during an asynchronous save", "disagreement", "bit for bit as undisturbed",
        "fault_tolerance/test_kills.py::test_killed_again_and_again_ends_bit_for_bit_the_same[kill_in_save_of]"),
    Row("again.sh on hosts with different codes", "disagreement", "alike on all hosts",
        "test_launch.py::test_again_obeys_every_exit_code"),
    Row("a kill at any moment", "disagreement", "bit for bit as undisturbed",
        "fault_tolerance/test_kills.py::test_killed_again_and_again_ends_bit_for_bit_the_same"),
)  # fmt: skip


@functools.cache
def _source(file: str) -> tuple[str, set[str]]:
    """The text of a test file, and its tests."""
    text = (ROOT / "tests" / file).read_text()
    return text, {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}


def _has_test(row: Row) -> bool:
    file, _, test = row.test.partition("::")
    name, _, part = test.rstrip("]").partition("[")
    text, tests = _source(file)
    return name in tests and part in text


def test_each_row_has_its_test():
    assert [row.fault for row in FAULTS if not _has_test(row)] == []


def test_all_kinds_are_there_and_no_two_are_one():
    assert {row.was for row in FAULTS} == {"silent", "nameless", "unsaved", "false", "disagreement"}
    assert len({row.fault for row in FAULTS}) == len(FAULTS)


def test_the_page_has_every_exit_code_that_is_promised():
    page = (ROOT / "cover_jax" / "fault_tolerance" / "README.md").read_text()
    assert not [row for row in FAULTS if isinstance(row.promise, int) and f"\n| {row.promise} | " not in page]
