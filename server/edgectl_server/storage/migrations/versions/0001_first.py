"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_first"
down_revision = None
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "blob",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blob")),
    )
    op.create_table(
        "device",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("public_key_sha256", sa.String(length=64), nullable=False),
        sa.Column("certificate_serial", sa.String(length=64), nullable=False),
        sa.Column("certificate_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("certificate_pem", sa.Text(), nullable=False),
        sa.Column("earlier_serials", sa.JSON(), nullable=False),
        sa.Column("enrol_token", sa.String(length=16), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decommissioned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("boot", INTEGER, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        sa.Column("order_counter", INTEGER, nullable=False),
        sa.Column("order", sa.JSON(), nullable=True),
        sa.Column("order_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reported", sa.JSON(), nullable=False),
        sa.Column("agent_version", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
    )
    op.create_table(
        "enrol_token",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("uses_left", INTEGER, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrol_token")),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("fence", INTEGER, nullable=False),
        sa.Column("attempts", INTEGER, nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index("ix_job_state", ["state", "created_at"], unique=False)

    op.create_table(
        "model",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_model")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("key", name=op.f("uq_outbox_key")),
    )
    op.create_table(
        "retained",
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_retained")),
    )
    op.create_table(
        "system_sample",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("boot", INTEGER, autoincrement=False, nullable=False),
        sa.Column("seq", INTEGER, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sample", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("device", "boot", "seq", name=op.f("pk_system_sample")),
    )
    with op.batch_alter_table("system_sample", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_system_sample_received_at"), ["received_at"], unique=False
        )

    op.create_table(
        "telemetry_window",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("boot", INTEGER, autoincrement=False, nullable=False),
        sa.Column("seq", INTEGER, autoincrement=False, nullable=False),
        sa.Column("number", INTEGER, autoincrement=False, nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requests", INTEGER, nullable=False),
        sa.Column("errors", INTEGER, nullable=False),
        sa.Column("non_finite", INTEGER, nullable=False),
        sa.Column("refused", INTEGER, nullable=False),
        sa.Column("latency", sa.JSON(), nullable=False),
        sa.Column("confidence", sa.JSON(), nullable=False),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(
            "device", "boot", "seq", "number", name=op.f("pk_telemetry_window")
        ),
    )
    with op.batch_alter_table("telemetry_window", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_telemetry_window_received_at"), ["received_at"], unique=False
        )
        batch_op.create_index("ix_telemetry_window_slot", ["slot", "end"], unique=False)

    op.create_table(
        "user_account",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_user_account")),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user"], ["user_account.name"], name=op.f("fk_api_token_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
    )
    op.create_table(
        "device_event",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("boot", INTEGER, autoincrement=False, nullable=False),
        sa.Column("seq", INTEGER, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("rollout", sa.String(length=64), nullable=True),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_device_event_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "boot", "seq", name=op.f("pk_device_event")),
    )
    with op.batch_alter_table("device_event", schema=None) as batch_op:
        batch_op.create_index("ix_device_event_received", ["device", "received_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_device_event_rollout"), ["rollout"], unique=False)

    op.create_table(
        "reported_slot",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=True),
        sa.Column("manifest", sa.String(length=71), nullable=True),
        sa.Column("update_state", sa.String(length=16), nullable=True),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_reported_slot_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "slot", name=op.f("pk_reported_slot")),
    )
    op.create_table(
        "login_session",
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=64), nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user"], ["user_account.name"], name=op.f("fk_login_session_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_login_session")),
    )
    op.create_table(
        "model_version",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("content", sa.String(length=71), nullable=False),
        sa.Column("source", sa.String(length=71), nullable=False),
        sa.Column("source_size", INTEGER, nullable=False),
        sa.Column("source_name", sa.String(length=256), nullable=False),
        sa.Column("calibration", sa.String(length=71), nullable=True),
        sa.Column("evaluation", sa.String(length=71), nullable=True),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("parent", sa.String(length=64), nullable=True),
        sa.Column("job", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["model.name"], name=op.f("fk_model_version_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("model", "version", name=op.f("uq_model_version_model")),
    )
    op.create_table(
        "bundle_variant",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("version_id", INTEGER, nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("precision", sa.String(length=8), nullable=False),
        sa.Column("target", sa.String(length=256), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("manifest_size", INTEGER, nullable=False),
        sa.Column("bundle_bytes", INTEGER, nullable=False),
        sa.Column("model_bytes", INTEGER, nullable=False),
        sa.Column("rank", INTEGER, nullable=False),
        sa.Column("trial", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name=op.f("fk_bundle_variant_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bundle_variant")),
        sa.UniqueConstraint("version_id", "variant", name=op.f("uq_bundle_variant_version_id")),
    )
    op.create_table(
        "desired_slot",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("version_id", INTEGER, nullable=True),
        sa.Column("rollout", sa.String(length=32), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_desired_slot_device"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name=op.f("fk_desired_slot_version_id")
        ),
        sa.PrimaryKeyConstraint("device", "slot", name=op.f("pk_desired_slot")),
    )
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version_id", INTEGER, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("selector", sa.JSON(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("revision", INTEGER, nullable=False),
        sa.Column("failures_acknowledged", INTEGER, nullable=False),
        sa.Column("note", sa.String(length=1024), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name=op.f("fk_rollout_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout")),
    )
    with op.batch_alter_table("rollout", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollout_state"), ["state"], unique=False)

    op.create_table(
        "rollout_device",
        sa.Column("rollout", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("previous_version_id", INTEGER, nullable=True),
        sa.Column("order_counter", INTEGER, nullable=True),
        sa.Column("reason", sa.JSON(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.id"], name=op.f("fk_rollout_device_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout", "device", name=op.f("pk_rollout_device")),
    )
    with op.batch_alter_table("rollout_device", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollout_device_device"), ["device"], unique=False)

    op.create_table(
        "rollout_event",
        sa.Column("rollout", sa.String(length=32), nullable=False),
        sa.Column("revision", INTEGER, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.id"], name=op.f("fk_rollout_event_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout", "revision", name=op.f("pk_rollout_event")),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup that was made before the upgrade")
