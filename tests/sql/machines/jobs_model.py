"""The rules of jobs (protocol v1) in memory: what slayq.job, slayq.dead_letter and slayq.wait must be after each call.

Serial queues have a model of their own (test_serial_model.py). Times are not modelled but for their kind: due, in a
back-off, or far off as the caller said. What is before what is told by a count of the calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DUE, BACK_OFF = "due", "back-off"
"""The kinds of time that are not the caller's own."""
PUT_OFF = "put off"
"""In the table a back-off, which ends when its endpoint is back."""
REPORTED = "the app reported that a step failed"


@dataclass
class Job:
    """A row of slayq.job."""

    id: int
    queue: str
    key: str | None
    payload: Any
    created: int
    """The call that made it."""
    when: str
    """DUE, BACK_OFF, PUT_OFF, or the time that the caller gave."""
    priority: int
    max_attempts: int
    attempts: int = 0
    revision: int = 0
    lease: int = 0
    worker: int | None = None
    state: str = ""
    superseded: bool = False
    cancelled: bool = False
    patches: list[Any] | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        self.enter()

    def enter(self) -> None:
        """The state of a job that nobody holds."""
        self.state = "ready" if self.when == DUE else "scheduled"

    @property
    def leased(self) -> bool:
        return self.state == "leased"

    @property
    def over(self) -> bool:
        """Nothing of it comes back."""
        return self.superseded or self.cancelled

    @property
    def shown(self) -> tuple[Any, ...]:
        """All that is compared with the row."""
        when = BACK_OFF if self.when == PUT_OFF else self.when
        return (
            self.queue, self.key, self.payload, self.state, when, self.priority, self.max_attempts, self.attempts,
            self.revision, self.lease, self.worker, self.superseded, self.cancelled, self.patches, self.error,
        )  # fmt: skip


@dataclass
class Letter:
    """A row of slayq.dead_letter."""

    id: int
    reason: str
    queue: str
    key: str | None
    payload: Any
    created: int
    priority: int
    max_attempts: int
    attempts: int
    lease: int
    patches: list[Any] | None
    error: str | None

    @property
    def shown(self) -> tuple[Any, ...]:
        return (
            self.reason, self.queue, self.key, self.payload, self.priority, self.max_attempts, self.attempts,
            self.lease, self.patches, self.error,
        )  # fmt: skip


@dataclass
class Wait:
    """A row of slayq.wait."""

    job: int
    step: str
    what: tuple[str, ...]
    """(event, member, value), or (key of the callee,)."""


@dataclass
class Trigger:
    """A row of slayq.trigger."""

    made: int
    what: tuple[str, ...]
    value: Any


@dataclass
class Jobs:
    """The tables."""

    jobs: dict[int, Job] = field(default_factory=dict)
    letters: dict[int, Letter] = field(default_factory=dict)
    waits: list[Wait] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)
    cancelled_keys: set[str] = field(default_factory=set)
    """Of runs whose app may still run."""
    paused: set[str] = field(default_factory=set)
    ended: dict[int, str] = field(default_factory=dict)
    """What became of each job that is in no table any more."""
    calls: int = 0

    # Looking

    def of_key(self, key: str | None) -> Job | None:
        found = [job for job in self.jobs.values() if key is not None and job.key == key]
        assert len(found) <= 1
        return found[0] if found else None

    def pending(self) -> list[Job]:
        """What nobody delivers."""
        return [job for job in self.jobs.values() if not job.leased]

    def _letter_of(self, key: str) -> Letter | None:
        """The newest of a key: it has the largest id, unless an older job died after it."""
        found = [letter for letter in self.letters.values() if letter.key == key]
        return found[-1] if found else None  # in the order of their deaths

    # Ends

    def _end(self, job: Job, how: str) -> None:
        del self.jobs[job.id]
        self.waits = [wait for wait in self.waits if wait.job != job.id]
        self.ended[job.id] = how

    def _bury(self, job: Job, reason: str, error: str | None, attempts: int) -> None:
        self._end(job, "dead")
        self._write_letter(job.id, job, reason, error, attempts, job.lease)

    def _write_letter(
        self, letter_id: int, job: Job, reason: str, error: str | None, attempts: int, lease: int
    ) -> None:
        self.letters[letter_id] = Letter(
            letter_id, reason, job.queue, job.key, job.payload, job.created, job.priority, job.max_attempts,
            attempts, lease, job.patches, error,
        )  # fmt: skip

    # Adding

    def add(
        self,
        added: int | None,
        newest_letter: int | None,
        *,
        queue: str,
        key: str | None,
        payload: Any,
        when: str,
        priority: int | None,
        max_attempts: int | None,
        mode: str,
    ) -> None:
        """A call of add_job that returned the id `added`, after which `newest_letter` is the largest id of a letter."""
        fresh = Job(added or 0, queue, key, payload, self.calls, when, priority or 0, max_attempts or 25)
        old = self.of_key(key)
        continues = isinstance(payload, dict) and "cache" in payload
        reports = continues and when == DUE and mode == "replace" and key is not None
        if key is None:
            self._insert(fresh, added)
        elif old is None:
            if continues and self._is_over(key, payload, reports=reports):
                assert added is None
            else:
                self._insert(fresh, added)
        elif not old.leased:
            assert added == old.id
            self._replace(old, fresh, mode, reports=reports, given=max_attempts)
        elif mode == "unsafe_dedupe":
            assert added == old.id
            old.revision += 1
        elif continues and old.over:
            assert added is None
            letter = self._letter_of(key)
            if reports and not old.cancelled and letter is not None:
                letter.payload = payload
        elif reports:
            self._report(old, fresh, added, newest_letter, max_attempts)
        else:
            old.key, old.superseded = None, True
            self._insert(fresh, added)

    def _insert(self, job: Job, added: int | None) -> None:
        assert added is not None
        assert added not in self.jobs
        assert added not in self.letters
        assert added not in self.ended
        self.jobs[added] = job

    def _is_over(self, key: str, payload: Any, *, reports: bool) -> bool:
        if key in self.cancelled_keys:
            return True
        letter = self._letter_of(key) if reports else None
        if letter is None:
            return False
        letter.payload, letter.patches = payload, None
        return True

    def _replace(self, old: Job, new: Job, mode: str, *, reports: bool, given: int | None) -> None:
        """A job that nobody delivers is added again."""
        old.revision += 1
        if mode == "unsafe_dedupe":
            return
        keeps_time = old.attempts == 0 if mode == "preserve_run_at" else reports and old.attempts > 0
        if not keeps_time:
            old.when = new.when
        old.enter()
        old.queue, old.priority = new.queue, new.priority
        if not (reports and given is None):
            old.max_attempts = new.max_attempts
        if not reports:
            old.attempts, old.error = 0, None
        both_batches = isinstance(old.payload, list) and isinstance(new.payload, list)
        old.payload = old.payload + new.payload if both_batches else new.payload
        old.patches = None
        self.waits = [wait for wait in self.waits if wait.job != old.id]

    def _report(self, old: Job, new: Job, added: int | None, letter_id: int | None, given: int | None) -> None:
        """An app reports a failed step of a job that is being delivered."""
        new.attempts, new.created, new.error = old.attempts, old.created, REPORTED
        new.max_attempts = given or old.max_attempts
        old.superseded = True
        if old.attempts >= new.max_attempts:
            assert added is None
            assert letter_id is not None
            assert letter_id not in self.letters
            self._write_letter(letter_id, new, "attempts-exhausted", REPORTED, new.attempts, 0)
            return
        old.key = None
        new.when = BACK_OFF
        new.enter()
        self._insert(new, added)

    # Delivering

    def lease(self, worker: int, taken: list[int]) -> None:
        for job_id in taken:
            job = self.jobs[job_id]
            job.state, job.worker = "leased", worker
            job.lease += 1
            job.attempts += 1

    def settle(self, job: Job, how: str) -> str:
        """The end of a delivery; its verdict."""
        if how == "completed":
            self._end(job, "done")
        elif job.over:
            self._end(job, "cancelled" if job.cancelled else "superseded")
            return "dropped"
        elif how == "dead":
            self._bury(job, "no-retry", "666", job.attempts)
        elif how == "failed":
            job.state, job.worker, job.when, job.error = "scheduled", None, BACK_OFF, "500"
        elif how == "put off":
            job.state, job.worker, job.when, job.attempts = "scheduled", None, PUT_OFF, job.attempts - 1
        else:
            job.state, job.worker, job.attempts = "ready", None, job.attempts - 1
        return "settled"

    def bring_forward(self) -> int:
        """The endpoint is back; how many jobs had waited for it."""
        waited = [job for job in self.jobs.values() if job.state == "scheduled" and job.when == PUT_OFF]
        for job in waited:
            job.state, job.when = "ready", DUE
        return len(waited)

    def reap(self, dead_workers: set[int]) -> dict[int, str]:
        """The jobs of dead workers; the fate of each."""
        fates = {}
        for job in [job for job in self.jobs.values() if job.worker in dead_workers]:
            error = f"the lease was lost: worker {job.worker} stopped renewing it"
            if job.over:
                fates[job.id] = "dropped"
                self._end(job, "cancelled" if job.cancelled else "superseded")
            elif job.attempts >= job.max_attempts:
                fates[job.id] = "dead"
                self._bury(job, "lease-lost", error, job.attempts)
            else:
                fates[job.id] = "ready"
                job.state, job.worker, job.error = "ready", None, error
        return fates

    def promote(self) -> None:
        for job in self.jobs.values():
            if job.state == "scheduled" and job.when == DUE:
                job.state = "ready"
                self.waits = [wait for wait in self.waits if wait.job != job.id]

    # Waiting

    def wait(self, key: str, step: str, what: tuple[str, ...]) -> None:
        job = self.of_key(key)
        if job is None or job.state != "scheduled":
            return
        for trigger in self.triggers:
            if trigger.made >= job.created and trigger.what == what:
                self._resume(job, step, trigger.value)
                return
        if not any(wait.job == job.id and wait.step == step for wait in self.waits):
            self.waits.append(Wait(job.id, step, what))

    def trigger(self, what: tuple[str, ...], value: Any) -> None:
        self.triggers.append(Trigger(self.calls, what, value))
        for wait in [wait for wait in self.waits if wait.what == what]:
            if wait in self.waits:  # still: the first of a job ends its others
                self._resume(self.jobs[wait.job], wait.step, value)

    def _resume(self, job: Job, step: str, value: Any) -> None:
        job.patches = [*(job.patches or []), [step, value]]
        job.when = DUE
        job.enter()
        self.waits = [wait for wait in self.waits if wait.job != job.id]

    # Taking away and putting back

    def cancel(self, user: int) -> None:
        for job in list(self.jobs.values()):
            if not isinstance(job.payload, dict) or job.payload["data"] != {"user": user} or job.cancelled:
                continue
            if job.leased:
                job.cancelled = True
            else:
                self._end(job, "cancelled")
            if job.key is not None and (job.leased or job.attempts > 0 or "cache" in job.payload):
                self.cancelled_keys.add(job.key)

    def remove(self, key: str) -> int | None:
        job = self.of_key(key)
        if job is None:
            return None
        if job.leased:
            job.key, job.superseded = None, True
        else:
            self._end(job, "removed")
        return job.id

    def complete(self, job: Job) -> None:
        self._end(job, "done")

    def fail_for_good(self, job: Job) -> None:
        self._bury(job, "failed-by-operator", "Manually marked as failed", job.max_attempts)

    def reschedule(
        self, job: Job, when: str | None, priority: int | None, attempts: int | None, max_attempts: int | None
    ) -> None:
        job.when = when or job.when
        job.priority = job.priority if priority is None else priority
        job.attempts = job.attempts if attempts is None else attempts
        job.max_attempts = max_attempts or job.max_attempts
        job.enter()
        if job.when == DUE:
            self.waits = [wait for wait in self.waits if wait.job != job.id]

    def redrive(self, letter: Letter) -> bool:
        """False: a live job has its key."""
        if self.of_key(letter.key) is not None:
            return False
        del self.letters[letter.id]
        self.ended.pop(letter.id, None)
        self.jobs[letter.id] = Job(
            letter.id, letter.queue, letter.key, letter.payload, letter.created, DUE, letter.priority,
            letter.max_attempts, lease=letter.lease, patches=letter.patches,
        )  # fmt: skip
        return True
