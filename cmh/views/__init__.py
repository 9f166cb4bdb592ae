"""What a person watches: views read studies and records, nobody reads them."""
