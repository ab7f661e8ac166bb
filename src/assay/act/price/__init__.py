"""Pricing: values of data that stay with their provider, offers, and a budget split among them. See docs/pricing.md."""

from assay.act.price.check import Checked, check
from assay.act.price.offer import Offer, appraise, load_offer
from assay.act.price.split import Split, shares_of_distinct, split

__all__ = ["Checked", "Offer", "Split", "appraise", "check", "load_offer", "shares_of_distinct", "split"]
