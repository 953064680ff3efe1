//! FROM: which relations stand in it, and which conditions filter each of them.

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, ColumnDef, JoinExpr, JoinType, List, RangeFunction, RangeSubselect, RangeTableSample, RangeVar};

use super::guard::{self, Place, Use};
use super::nodes::other_from_items;
use super::*;

impl Verifier<'_> {
    /// Adds a condition that filters entries of the current level.
    pub(super) fn add_site(&mut self, condition: Option<&Node>) -> Result<usize, Denial> {
        let shapes = guard::shapes(condition);
        let level = self.level()?;
        level.sites.push(shapes);
        Ok(level.sites.len() - 1)
    }

    /// Reads one item of FROM; `sites` are the conditions that rows of it must pass to be seen at all.
    pub(super) fn source(&mut self, item: &Node, sites: &[usize]) -> Result<(), Denial> {
        match inner(item)? {
            NodeEnum::RangeVar(relation) => self.relation(relation, sites),
            NodeEnum::RangeSubselect(subselect) => self.derived(subselect),
            NodeEnum::RangeFunction(function) => self.function(function),
            NodeEnum::RangeTableFunc(table) => self.xml_table(table),
            NodeEnum::JsonTable(table) => self.json_table(table),
            NodeEnum::JoinExpr(join) => self.join(join, sites),
            NodeEnum::RangeTableSample(sample) => {
                let RangeTableSample { relation, method, args, repeatable, location: _ } = sample.as_ref();
                if !matches!(qualified(method)?, ("" | "pg_catalog", "system" | "bernoulli")) {
                    return Err(refused("a sampling method"));
                }
                self.all(args)?;
                self.optional(repeatable.as_deref())?;
                self.source(relation.as_deref().ok_or_else(|| refused("a sample of nothing"))?, sites)
            }
            other_from_items!() => Err(refused(format!("{} in FROM", kind_name(inner(item)?)))),
        }
    }

    fn relation(&mut self, relation: &RangeVar, sites: &[usize]) -> Result<(), Denial> {
        let is_locked = relation.alias.as_ref().is_some_and(|a| self.level_locks(&a.aliasname));
        let (alias, entry) = self.relation_entry(relation, if is_locked { Use::Lock } else { Use::Read })?;
        if !entry.required().is_empty() {
            self.level()?.filtered.push((alias.clone(), sites.to_vec()));
        }
        self.register(&alias, entry)
    }

    fn level_locks(&self, alias: &str) -> bool {
        self.levels.last().is_some_and(|level| level.locks.holds(alias))
    }

    /// What a name in FROM or of a target is: a CTE in scope where it is unqualified, else a relation that is known.
    pub(super) fn relation_entry(&self, relation: &RangeVar, use_: Use) -> Result<(String, Entry), Denial> {
        let RangeVar { catalogname, schemaname, relname, inh: _, relpersistence, alias, location: _ } = relation;
        let Some(Alias { aliasname, colnames }) = alias else {
            return Err(refused(format!("\"{relname}\" has no alias")));
        };
        let names = strings(colnames)?;
        if !catalogname.is_empty() || relpersistence != "p" {
            return Err(refused(format!("\"{relname}\" is named in an unknown way")));
        }
        if schemaname.is_empty() {
            let is_cte = matches!(use_, Use::Read | Use::Lock) && self.ctes.iter().any(|frame| frame.contains(relname));
            return match is_cte || crate::mutant!("check.no-schema") {
                true => Ok((aliasname.clone(), Entry::Other(Whole::Row))),
                false => Err(refused(format!("\"{relname}\" has no schema and is no CTE in scope"))),
            };
        }
        let known = self.catalog.relation_named(schemaname, relname);
        let known = known.ok_or_else(|| refused(format!("\"{schemaname}\".\"{relname}\" is not in the catalog")))?;
        let columns = guard::renamed(known, &names);
        let relations = self.expected.relations;
        let entry = if let Some(governed) = relations.governed.get(&known.oid) {
            let position = known.columns.iter().position(|c| c.name == governed.tenant_column);
            let tenant_column = position.and_then(|i| columns.get(i)).cloned();
            let tenant_column = tenant_column.ok_or_else(|| refused("the tenant column is not in the catalog"))?;
            let tenant_column =
                if crate::mutant!("check.column-aliases") { governed.tenant_column.clone() } else { tenant_column };
            let place = Place { alias: aliasname, relation: known, columns: &columns };
            let required = place.required(&tenant_column, governed, use_)?;
            let when_read = place.when_read(governed, use_)?;
            let exposure = if use_ == Use::Insert { Exposure::Own } else { Exposure::Foreign };
            let columns = self.named(known, aliasname, columns)?;
            Entry::Governed { oid: known.oid, exposure, tenant_column, required, when_read, columns }
        } else if (use_ == Use::Read || crate::mutant!("check.write-to-shared")) && relations.shared.contains(&known.oid) {
            Entry::Shared { columns: self.named(known, aliasname, columns)? }
        } else if let Some(system) = relations.system.get(&known.oid)
            && use_ == Use::Read
        {
            if !names.is_empty() && !crate::mutant!("check.system-columns-renamed") {
                return Err(refused(format!("\"{aliasname}\" renames columns of a system catalog")));
            }
            let place = Place { alias: aliasname, relation: known, columns: &columns };
            let hidden = match (&system.single, &self.only) {
                (Some(single), Some(only))
                    if only.alias == *aliasname && only.column == single.column && (single.admits)(&only.value) =>
                {
                    single.hidden
                }
                (Some(_) | None, Some(_) | None) => system.hidden,
            };
            let required = if crate::mutant!("check.system-rows") { vec![] } else { place.all(&system.rows)? };
            Entry::System { hidden, required, columns: Named { names: columns, masked: Vec::new() } }
        } else {
            return Err(refused(format!("\"{schemaname}\".\"{relname}\" may not be read or written so")));
        };
        Ok((aliasname.clone(), entry))
    }

    fn derived(&mut self, subselect: &RangeSubselect) -> Result<(), Denial> {
        let RangeSubselect { lateral: _, subquery, alias } = subselect;
        let Some(NodeEnum::SelectStmt(select)) = subquery.as_deref().map(inner).transpose()? else {
            return Err(refused("a derived table that is no query"));
        };
        self.is_locked = alias.as_ref().is_some_and(|a| self.level_locks(&a.aliasname));
        self.select(select)?;
        self.register_other(alias.as_ref(), Whole::Row)
    }

    fn function(&mut self, function: &RangeFunction) -> Result<(), Denial> {
        let RangeFunction { lateral: _, ordinality: _, is_rowsfrom: _, functions, alias, coldeflist } = function;
        for function in functions {
            let NodeEnum::List(List { items }) = inner(function)? else { return Err(refused("a function in FROM that is none")) };
            let Some((call, columns)) = items.split_first() else { return Err(refused("an empty function in FROM")) };
            self.expr(call)?;
            for column in columns.iter().filter(|c| c.node.is_some()) {
                match inner(column)? {
                    NodeEnum::List(List { items }) => self.column_definitions(items)?,
                    other => return Err(refused(format!("{} in a column list", kind_name(other)))),
                }
            }
        }
        self.column_definitions(coldeflist)?;
        self.register_other(alias.as_ref(), Whole::Value)
    }

    /// `AS t(a int, b text)`
    fn column_definitions(&mut self, columns: &[Node]) -> Result<(), Denial> {
        for column in columns {
            let NodeEnum::ColumnDef(column) = inner(column)? else { return Err(refused("a column definition that is none")) };
            let ColumnDef {
                colname: _,
                type_name,
                compression,
                inhcount: _,
                is_local: _,
                is_not_null,
                is_from_type,
                storage: _,
                storage_name,
                raw_default,
                cooked_default,
                identity: _,
                identity_sequence,
                generated: _,
                coll_clause,
                coll_oid: _,
                constraints,
                fdwoptions,
                location: _,
            } = column.as_ref();
            let plain = compression.is_empty()
                && storage_name.is_empty()
                && raw_default.is_none()
                && cooked_default.is_none()
                && identity_sequence.is_none()
                && coll_clause.is_none()
                && constraints.is_empty()
                && fdwoptions.is_empty();
            if !plain || *is_not_null || *is_from_type {
                return Err(refused("a column definition that is more than a name and a type"));
            }
            self.type_name(type_name.as_ref())?;
        }
        Ok(())
    }

    pub(super) fn register_other(&mut self, alias: Option<&Alias>, whole: Whole) -> Result<(), Denial> {
        let Some(Alias { aliasname, colnames }) = alias else { return Err(refused("an entry without an alias")) };
        strings(colnames)?;
        self.register(aliasname, Entry::Other(whole))
    }

    /// A condition filters a side where it removes that side's rows and nothing else: WHERE and inner ON above or at the
    /// join for a side that is kept or inner, this ON for the nullable side, none for either side of a FULL join.
    fn join(&mut self, join: &JoinExpr, above: &[usize]) -> Result<(), Denial> {
        let JoinExpr { jointype, is_natural, larg, rarg, using_clause, join_using_alias, quals, alias, rtindex: _ } = join;
        if *is_natural && !crate::mutant!("check.natural-join") {
            return Err(refused("NATURAL JOIN"));
        }
        let on = self.add_site(quals.as_deref())?;
        // Behind an alias of the join its parts cannot be named from above.
        let above: &[usize] = if alias.is_some() && !crate::mutant!("check.behind-a-join-alias") { &[] } else { above };
        let with_on: Vec<usize> = above.iter().copied().chain([on]).collect();
        let (left, right): (&[usize], &[usize]) = match JoinType::try_from(*jointype) {
            Ok(JoinType::JoinInner) => (&with_on, &with_on),
            Ok(JoinType::JoinLeft) if crate::mutant!("check.outer-join-sides") => (&with_on, &with_on),
            Ok(JoinType::JoinLeft) => (above, &[on]),
            Ok(JoinType::JoinRight) => (&[on], above),
            Ok(JoinType::JoinFull) if crate::mutant!("check.full-join-sides") => (&with_on, &with_on),
            Ok(JoinType::JoinFull) => (&[], &[]),
            Ok(
                JoinType::Undefined
                | JoinType::JoinSemi
                | JoinType::JoinAnti
                | JoinType::JoinRightSemi
                | JoinType::JoinRightAnti
                | JoinType::JoinUniqueOuter
                | JoinType::JoinUniqueInner,
            )
            | Err(_) => return Err(refused("a join of an unknown kind")),
        };
        let first = self.level()?.aliases.len();
        for (side, sites) in [(larg, left), (rarg, right)] {
            self.source(side.as_deref().ok_or_else(|| refused("a join with one side"))?, sites)?;
        }
        for column in strings(using_clause)?.into_iter().filter(|_| !crate::mutant!("check.using-hidden-columns")) {
            self.hidden_column(column, first)?;
        }
        self.condition(quals.as_deref())?;
        if let Some(alias) = alias {
            self.level()?.aliases.truncate(first);
            self.register_other(Some(alias), Whole::Row)?;
        }
        match (using_clause.is_empty(), join_using_alias) {
            (true, None) => Ok(()),
            (false, Some(using)) => self.register_other(Some(using), Whole::Row),
            (true, Some(_)) => Err(refused("an alias of no columns")),
            (false, None) => Err(refused("USING without an alias")),
        }
    }

    /// USING compares columns that it does not name an entry for.
    fn hidden_column(&self, column: &str, first: usize) -> Result<(), Denial> {
        let aliases = self.levels.last().map(|level| &level.aliases[first..]).unwrap_or_default();
        for alias in aliases {
            if let Some(entry) = self.entries.get(alias) {
                check_not_hidden(entry, column)?;
            }
        }
        Ok(())
    }

    /// Every entry of the level passes its policy in a condition that filters it.
    pub(super) fn check_filtered(&mut self) -> Result<(), Denial> {
        let level = self.levels.last().ok_or_else(|| refused("no query"))?;
        for (alias, sites) in &level.filtered {
            let required = self.entries.get(alias).map(Entry::required).unwrap_or_default();
            let holds = |shape: &String| sites.iter().any(|site| level.sites[*site].contains(shape));
            if !required.iter().all(holds) && !crate::mutant!("check.predicates") {
                return Err(refused(format!("rows of \"{alias}\" do not pass its policy")));
            }
        }
        Ok(())
    }
}

/// A column that is hidden in a system catalog, or masked, may not be named.
pub(super) fn check_not_hidden(entry: &Entry, column: &str) -> Result<(), Denial> {
    if entry.named().is_some_and(|n| n.is_masked(column)) && !crate::mutant!("check.masked-column") {
        return Err(refused(format!("the masked column \"{column}\" as it is")));
    }
    check_catalog_column(entry, column)
}

/// A column that is hidden in a system catalog may not be named.
pub(super) fn check_catalog_column(entry: &Entry, column: &str) -> Result<(), Denial> {
    match entry {
        Entry::System { hidden, required: _, columns: _ }
            if hidden.contains(&column) && !crate::mutant!("check.hidden-columns") =>
        {
            Err(refused(format!("column \"{column}\" of a system catalog")))
        }
        Entry::System { .. } | Entry::Governed { .. } | Entry::Shared { columns: _ } | Entry::Other(_) => Ok(()),
    }
}
