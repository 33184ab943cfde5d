"""The pages on the rules of a check; ringfence ships them as data and prints them."""
