"""What the audit log keeps of single sign-on."""

import json


def rows(application):
    return [
        (row.action, row.actor, row.object, row.outcome, json.loads(row.details))
        for row in application.audit.rows(0, 200)
    ]


def test_a_login_makes_a_user_and_a_change_of_role_is_kept(application, liar):
    application.come_back(liar.answer_to(application.begin()))
    made, login = rows(application)
    who = {"issuer": liar.issuer, "subject": "person-1"}
    assert made == ("sign_on_user", "server", "ana@sso", "done", {**who, "role": "operator"})
    assert login[:2] == ("sign_on_callback", "ana@sso")
    assert login[3] == "done"
    assert login[4] == who
    liar.claims = {"groups": ["chiefs"]}
    application.come_back(liar.answer_to(application.begin()))
    changed, _ = rows(application)[2:]
    assert changed[0] == "sign_on_role"
    assert changed[4] == {"role": "admin", "before": "operator"}


def test_refused_logins_are_kept_with_the_reason_and_without_secrets(application, liar):
    liar.claims = {"groups": ["staff"]}
    application.come_back(liar.answer_to(application.begin()))
    application.come_back(liar.answer_to(application.begin(), state="s" * 43))
    role, state = rows(application)
    assert role[0] == state[0] == "sign_on_callback"
    assert role[3] == state[3] == "refused"
    assert role[4] == {"issuer": liar.issuer, "subject": "person-1", "code": "openid.role"}
    assert state[4] == {"code": "openid.state"}


def test_a_stranger_does_not_fill_the_log(application):
    for number in range(100):
        application.browser.get(f"/api/v1/openid/callback?state={number}&code=x")
    assert len(rows(application)) == 60


def test_who_is_shut_out_is_in_the_log(application, liar):
    application.come_back(liar.answer_to(application.begin()))
    liar.claims = {"groups": ["staff"]}
    application.come_back(liar.answer_to(application.begin()))
    assert ("sign_on_shut_out", "ana@sso") in {(row[0], row[2]) for row in rows(application)}
