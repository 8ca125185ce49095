"""That a variant is encrypted is seen on the page of its version."""

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.chromium


def test_an_encrypted_variant_says_so(visit):
    watched = visit()
    page = watched.goto("/models/kws/1.0")
    bundles = page.get_by_role("region", name="Published bundles")
    expect(bundles.locator("tbody tr")).to_have_count(2)
    expect(bundles.locator("tbody tr", has_text="encrypted")).to_have_count(1)
    expect(bundles.locator("tbody tr").first).to_contain_text("int8 encrypted")
    page = watched.goto("/models/har/1")
    bundles = page.get_by_role("region", name="Published bundles")
    expect(bundles.locator("tbody tr")).to_have_count(2)
    expect(bundles.locator("tbody tr", has_text="encrypted")).to_have_count(0)
