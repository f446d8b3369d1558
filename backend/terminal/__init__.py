"""What commands show to people: figures, tables and charts as text, and rich where there is a terminal."""
