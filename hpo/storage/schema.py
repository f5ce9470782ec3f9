"""hpo's tables; Optuna has its own in the same database.

The slot is the truth: the result of a training is stored here first, and Optuna's trial is a projection of it.
Times are seconds since 1970 by the database's clock.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

LABEL_LENGTH = 64  # characters of a configuration's label
WORKER_LENGTH = 200  # characters of a worker's name; host names may be long
HOST_LENGTH = 200  # characters of a host's name, and of a device's
USER_LENGTH = 100  # characters of a user's name, and of a token's
IDENTITY_LENGTH, KEY_LENGTH = 32, 64  # hexadecimal digits, of a database
TICKET_LENGTH, ID_LENGTH = 24, 8  # hexadecimal digits: a claim's ticket and a slot's id make the token of a lease

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

studies = Table(
    "hpo_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("experiment", String(40), nullable=False, server_default="digits"),  # its name
    Column("model", String(32), nullable=False),
    Column("code_digest", String(64)),  # of the user's code that trains; null: hpo's own
    Column("code_changes", Text),  # JSON list of CodeChange: what was accepted since the study was made; null: nothing
    Column("spec", Text, nullable=False),  # canonical JSON of StudySpec
    Column("spec_digest", String(64), nullable=False),
    Column("data_digest", String(64), nullable=False),  # of the data and their split into pools
    Column("phase", String(16), nullable=False),  # search | confirm | final | done
    Column("paused", Boolean, nullable=False, default=False),
    Column("open_early", Boolean, nullable=False, default=False, server_default=false()),  # see searched.py
    Column("seed", BigInteger, nullable=False),  # keys the search's data draw
    Column("startup_trials", Integer, nullable=False),  # how many search slots are random; not read
    Column("in_flight", Integer, nullable=False),  # the largest number of adaptive search slots that run at once
    Column("repeat_group", String(200)),  # the name shared by the repeats of one study, else null
    Column("search_study_id", Integer, nullable=False),  # Optuna's study ids
    Column("confirm_study_id", Integer, nullable=False),
    Column("final_study_id", Integer, nullable=False),
    Column("tuned", Text),  # JSON {"params": {...}, "source": the reference's label | trial number} once confirmed
    Column("created_at", Float, nullable=False),
    CheckConstraint("phase in ('search', 'confirm', 'final', 'done')", name="phase"),
    sqlite_autoincrement=True,  # ids are not reused: a worker may still hold an old one
)

slots = Table(
    "hpo_slots",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("hpo_studies.id", ondelete="CASCADE"), nullable=False),
    Column("model", String(32), nullable=False),  # the study's, repeated so that a claim reads one table
    Column("kind", String(8), nullable=False),  # search | confirm | final
    Column("idx", Integer, nullable=False),  # counts the slots of this study and kind from 0
    Column("adaptive", Boolean, nullable=False),  # search slot whose parameters depend on earlier results
    Column("seed", BigInteger, nullable=False),  # 63 bits
    Column("priority", Integer, nullable=False),  # by kind: final 0, confirm 1, search 2; lower goes first
    Column("state", String(8), nullable=False),  # waiting | running | done | failed
    Column("result", String(8)),  # of a done slot: complete | pruned | diverged, as in outcome
    Column(
        "label", String(LABEL_LENGTH)
    ),  # confirm, final: whose configuration ("reference", "tuned", "trial 17", ...)
    Column("params", Text),  # JSON: the configuration; of a search slot once it is asked for
    Column("round", Integer),  # confirm, final: the round's number from 0
    Column("trial_id", Integer),  # Optuna's id, once first claimed
    Column("trial_number", Integer),
    Column("attempt", Integer, nullable=False, default=0),  # claims so far, releases included
    Column("expiries", Integer, nullable=False, default=0),  # attempts used up: lost leases without progress
    Column("failures", Integer, nullable=False, default=0),  # exceptions in the model's code so far
    Column("failed_on", String(WORKER_LENGTH)),  # the worker on which it raised last, while another is to try it
    Column("reserved_until", Float),  # until then that worker leaves it to others that live
    Column("epoch", Integer, nullable=False, default=0),  # the furthest epoch ever reported
    Column("lease_epoch", Integer, nullable=False, default=0),  # the epoch when the present lease was given
    Column("worker", String(WORKER_LENGTH)),
    Column("token", String(TICKET_LENGTH + ID_LENGTH)),  # of the present lease
    Column("lease_expires", Float),
    Column("outcome", Text),  # JSON, the whole result, written once by finish
    Column("outputs", LargeBinary),  # final: packed answers per test pair
    Column("error", Text),  # why it failed last, with the traceback where there is one
    Column("told", Boolean, nullable=False, default=False),  # whether Optuna's trial has the outcome too
    Column("started_at", Float),  # first claim
    Column("finished_at", Float),
    UniqueConstraint("study_id", "kind", "idx"),
    CheckConstraint("result in ('complete', 'pruned', 'diverged')", name="result"),
    CheckConstraint("kind in ('search', 'confirm', 'final')", name="kind"),
    CheckConstraint("state in ('waiting', 'running', 'done', 'failed')", name="state"),
    sqlite_autoincrement=True,
)

# Partial indexes, so that a claim costs the same however many slots are finished. A query must repeat the condition
# with literals, not with bound values, or SQLite does not use the index.
UNTOLD = "state in ('done', 'failed') and not told"


def _index(name: str, *columns: str, where: str) -> None:
    condition = text(where)
    Index(f"ix_hpo_slots_{name}", *(slots.c[c] for c in columns), postgresql_where=condition, sqlite_where=condition)


_index("waiting", "model", "adaptive", "priority", "idx", "study_id", where="state = 'waiting'")
_index("queued", "study_id", "adaptive", "idx", where="state = 'waiting'")  # the first of each study
_index("running", "study_id", where="state = 'running'")
_index("failed", "study_id", where="state = 'failed'")
_index("leases", "model", "lease_expires", where="state = 'running'")
_index("untold", "study_id", where=UNTOLD)

openings = Table(
    "hpo_openings",  # every opening of the test pool B
    metadata,
    Column("id", Integer, primary_key=True),
    Column("slot_id", ForeignKey("hpo_slots.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("worker", String(WORKER_LENGTH), nullable=False),
    Column("opened_at", Float, nullable=False),
)

ledger = Table(
    "hpo_ledger",  # the same, with what it was for; a row stays whatever becomes of the study
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, nullable=False),  # no foreign key: the study may be gone
    Column("study", String(200), nullable=False),  # its name then
    Column("experiment", String(40), nullable=False),
    Column("model", String(32), nullable=False),
    Column("spec_digest", String(64), nullable=False),
    Column("data_digest", String(64), nullable=False),
    Column("label", String(LABEL_LENGTH)),  # this and the next three as the slot had them
    Column("params", Text),
    Column("round", Integer),
    Column("attempt", Integer, nullable=False),
    Column("worker", String(WORKER_LENGTH), nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("early", Boolean, nullable=False),  # a search on the same data, or its confirmation, went on
    Column("look", Integer),  # how many rounds of the configuration were asked for by then; null: not recorded
    Column("spec", Text),  # this and the next two as the study had them; null: it was gone before they were recorded
    Column("code_digest", String(64)),
    Column("declared_at", Float),  # when the study was created, and with it its looks
    sqlite_autoincrement=True,
)

database = Table(
    "hpo_database",  # one row
    metadata,
    Column("id", Integer, primary_key=True),
    Column("identity", String(IDENTITY_LENGTH), nullable=False),  # random: another one is another database
    Column("key", String(KEY_LENGTH), nullable=False),  # random, hexadecimal: signs what workers keep in files
    CheckConstraint("id = 1", name="one_row"),
)

workers = Table(
    "hpo_workers",  # one row a life
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(WORKER_LENGTH), nullable=False, unique=True),
    Column("host", String(HOST_LENGTH), nullable=False),
    Column("device", String(HOST_LENGTH), nullable=False),
    Column("lanes", Integer),  # in its population; null before it has one
    Column("study_names", Text),  # JSON list of the studies that it serves; null: all
    Column("data_digest", String(64), nullable=False),
    Column("code_digest", String(64)),  # of the sources that train
    Column("version", String(64), nullable=False),  # of hpo
    Column("completed", Integer, nullable=False, default=0),  # trainings that ended with a result
    Column("failed", Integer, nullable=False, default=0),  # trainings that raised
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("alive_until", Float, nullable=False, index=True),  # taken for dead from then on
    Column("stop_requested", Boolean, nullable=False, default=False),  # it is to end as on SIGTERM
    Column("left_at", Float),
    Column("left_why", Text),
    sqlite_autoincrement=True,
)

users = Table(
    "hpo_users",  # of the lab's site
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(USER_LENGTH), nullable=False, unique=True),
    Column("role", String(8), nullable=False),
    Column("password_hash", String(255)),  # as werkzeug writes it; null: known by a proxy's word alone
    Column("logouts", Integer, nullable=False, server_default="0"),  # so far: each has ended all sessions of before
    Column("created_at", Float, nullable=False),
    CheckConstraint("role in ('viewer', 'editor')", name="role"),
    sqlite_autoincrement=True,
)

tokens = Table(
    "hpo_tokens",  # with which scripts read the site
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(USER_LENGTH), nullable=False, unique=True),
    Column("role", String(8), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the token, which is stored nowhere
    Column("created_at", Float, nullable=False),
    CheckConstraint("role in ('viewer', 'editor')", name="role"),
    sqlite_autoincrement=True,
)
